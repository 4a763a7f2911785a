import { made, offer, onSubmit, request } from "./api.js";
import { needed, upload } from "./image.js";

export function startChat(panel) {
  const field = panel.querySelector("[name=question]"), list = panel.querySelector("ol");
  const stop = panel.querySelector("#stop"), forget = panel.querySelector("#forget");
  let rounds = [], speaking = null;

  function begin() {
    speaking?.abort();
    rounds = [];
    list.replaceChildren();
    forget.hidden = true;
  }

  upload.addEventListener("change", () => {
    begin();
    offer(panel.querySelector(".chips"), upload.example?.questions ?? [], field);
  });
  stop.addEventListener("click", () => speaking?.abort());
  forget.addEventListener("click", () => {
    begin();
    field.focus();
  });

  onSubmit(panel.querySelector("form"), "thinking", async () => {
    const about = needed(), asked = field.value.trim(), before = rounds;
    if (!asked) throw new Error("type something first");
    const you = made("li", "you", asked), model = made("li", "model", "…");
    list.append(you, model);
    model.scrollIntoView({ block: "nearest" });
    field.value = "";
    speaking = new AbortController();
    stop.hidden = false;
    try {
      const fields = { image: about, question: asked, history: JSON.stringify(before) };
      const last = await request("api/chat", fields, {
        signal: speaking.signal,
        onLine: (line) => (model.textContent = line.said ?? line.answer),
      });
      if (last?.answer === undefined) throw new Error("the answer was cut off; ask again");
      model.textContent = last.answer || "(nothing)";
      if (last.rounds_read < before.length) {
        const read = last.rounds_read, kept = read === 1 ? "round" : `${read} rounds`;
        const note = `it has room for ${read ? `the last ${kept}` : "none of the rounds"} before`;
        list.append(made("li", "aside", note));
      }
      before.push([asked, last.answer]);
    } catch (error) {
      you.remove();
      model.remove();
      if (!field.value) field.value = asked;
      throw error;
    } finally {
      stop.hidden = true;
      speaking = null;
      forget.hidden = !rounds.length;
      field.focus();
    }
  });
}
