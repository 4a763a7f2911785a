import { create, examples, onSubmit, request } from "./api.js";
import { requireFile, upload } from "./image.js";

export async function startZeroShot(panel) {
  const form = panel.querySelector("form"), ranking = panel.querySelector(".ranking");
  const { labels } = form.elements;
  upload.addEventListener("change", () => ranking.replaceChildren());
  onSubmit(form, "ranking", async () => {
    const image = requireFile();
    if (!labels.value.trim()) throw new Error("type at least one label, one per line");
    const found = await request("api/zero-shot", { image, labels: labels.value });
    if (upload.file === image) ranking.replaceChildren(...found.ranking.map(labelItem));
  });
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
