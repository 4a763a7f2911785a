import { made, neverRead, offer, onSubmit, request } from "./api.js";
import { needed, upload, showAttention } from "./image.js";

export function startAsk(panel) {
  const field = panel.querySelector("[name=question]"), said = panel.querySelector(".said");
  upload.addEventListener("change", () => {
    said.replaceChildren();
    offer(panel.querySelector(".chips"), upload.example?.questions ?? [], field);
  });
  onSubmit(panel.querySelector("form"), "looking", async () => {
    const asked = field.value.trim(), about = needed();
    if (!asked) throw new Error("type a question first");
    const found = await request("api/ask", { image: about, question: asked });
    if (upload.file !== about) return; // another image has come in the meantime
    const item = made("li");
    item.append(made("div", "query", asked), made("div", "answer", found.answer || "(nothing)"));
    if (found.unknown.length) item.append(made("div", "note", neverRead(found.unknown)));
    said.prepend(item);
    item.scrollIntoView({ block: "nearest" });
    showAttention(found.attention);
  });
}
