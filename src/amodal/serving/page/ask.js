import { create, onSubmit, outOfVocabulary, request, suggest } from "./api.js";
import { requireFile, showAttention, upload } from "./image.js";

export function startAsk(panel) {
  const field = panel.querySelector("[name=question]"), answers = panel.querySelector(".answers");
  upload.addEventListener("change", () => {
    answers.replaceChildren();
    suggest(panel.querySelector(".chips"), upload.example?.questions ?? [], field);
  });
  onSubmit(panel.querySelector("form"), "answering", async () => {
    const question = field.value.trim(), image = requireFile();
    if (!question) throw new Error("type a question first");
    const found = await request("api/ask", { image, question });
    if (upload.file !== image) return; // the image was changed in the meantime
    const item = create("li"), unknown = found.out_of_vocabulary;
    item.append(create("div", "query", question), create("div", "answer", found.answer || "(empty)"));
    if (unknown.length) item.append(create("div", "note", outOfVocabulary(unknown)));
    answers.prepend(item);
    item.scrollIntoView({ block: "nearest" });
    showAttention(found.attention);
  });
}
