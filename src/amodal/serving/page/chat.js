import { create, onSubmit, request, suggest } from "./api.js";
import { requireFile, upload } from "./image.js";

export function startChat(panel) {
  const field = panel.querySelector("[name=question]"), list = panel.querySelector("ol");
  const stop = panel.querySelector("#stop"), reset = panel.querySelector("#reset");
  let history = [], generation = null;

  function restart() {
    generation?.abort();
    history = [];
    list.replaceChildren();
    reset.hidden = true;
  }

  upload.addEventListener("change", () => {
    restart();
    suggest(panel.querySelector(".chips"), upload.example?.questions ?? [], field);
  });
  stop.addEventListener("click", () => generation?.abort());
  reset.addEventListener("click", () => {
    restart();
    field.focus();
  });

  onSubmit(panel.querySelector("form"), "generating", async () => {
    const image = requireFile(), question = field.value.trim(), pairs = history;
    if (!question) throw new Error("type a question first");
    const user = create("li", "user", question), model = create("li", "model", "…");
    list.append(user, model);
    model.scrollIntoView({ block: "nearest" });
    field.value = "";
    generation = new AbortController();
    stop.hidden = false;
    try {
      const fields = { image, question, history: JSON.stringify(pairs) };
      const last = await request("api/chat", fields, {
        signal: generation.signal,
        onLine: (line) => (model.textContent = line.text ?? line.answer),
      });
      if (last?.answer === undefined) throw new Error("the answer was interrupted; ask again");
      model.textContent = last.answer || "(empty)";
      const read = last.history_turns_used, all = 2 * pairs.length; // a pair is two turns
      if (read < all) {
        const note = `history truncated: the model read the last ${read} of ${all} turns`;
        list.append(create("li", "aside", note));
      }
      pairs.push([question, last.answer]);
    } catch (error) {
      user.remove();
      model.remove();
      if (!field.value) field.value = question;
      throw error;
    } finally {
      stop.hidden = true;
      generation = null;
      reset.hidden = !history.length;
      field.focus();
    }
  });
}
