import { create, examples, onSubmit, request } from "./api.js";
import { requireFile, upload } from "./image.js";
import { inputField, inputsOf } from "./search.js";

export async function startZeroShot(panel, about) {
  const form = panel.querySelector("form"), ranking = panel.querySelector(".ranking");
  const { labels } = form.elements;
  const { imageInput, others } = inputsOf(about);
  if (!imageInput) panel.querySelector("#zero-shot-inputs").append(...others.map(inputField));
  upload.addEventListener("change", () => ranking.replaceChildren());
  onSubmit(form, "ranking", async () => {
    const image = imageInput ? requireFile() : null;
    if (!labels.value.trim()) throw new Error("type at least one label, one per line");
    const fields = Object.fromEntries(new FormData(form));
    if (imageInput) fields[imageInput.name] = image;
    const found = await request("api/zero-shot", fields);
    if (!imageInput || upload.file === image) {
      ranking.replaceChildren(...found.ranking.map(labelItem));
    }
  });
  if (!imageInput) return;
  const scenes = await examples;
  if (!labels.value) labels.value = scenes.map((example) => example.caption).join("\n");
}

function labelItem({ text, score }) {
  const item = create("li"), line = create("div", "line"), bar = create("meter");
  line.append(create("span", "", text), create("span", "", score.toFixed(3)));
  Object.assign(bar, { min: 0, max: 1, value: Math.max(0, score) });
  bar.setAttribute("aria-label", `cosine similarity ${score.toFixed(3)}`);
  item.append(line, bar);
  return item;
}
