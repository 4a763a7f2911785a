import { made, neverRead, offer, onSubmit, request } from "./api.js";
import { needed, picture, showLook } from "./picture.js";

export function startAsk(panel) {
  const field = panel.querySelector("[name=question]"), said = panel.querySelector(".said");
  picture.addEventListener("change", () => {
    said.replaceChildren();
    offer(panel.querySelector(".chips"), picture.example?.questions ?? [], field);
  });
  onSubmit(panel.querySelector("form"), "looking", async () => {
    const asked = field.value.trim(), about = needed();
    if (!asked) throw new Error("type a question first");
    const found = await request("api/ask", { picture: about, question: asked });
    if (picture.file !== about) return; // another picture has come in the meantime
    const item = made("li");
    item.append(made("div", "query", asked), made("div", "answer", found.answer || "(nothing)"));
    if (found.unknown.length) item.append(made("div", "note", neverRead(found.unknown)));
    said.prepend(item);
    item.scrollIntoView({ block: "nearest" });
    showLook(found.look);
  });
}
