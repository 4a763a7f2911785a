import { examples, made, onSubmit, request } from "./api.js";
import { needed, upload } from "./image.js";

export async function startZeroShot(panel) {
  const form = panel.querySelector("form"), ranking = panel.querySelector(".ranking");
  const { labels } = form.elements;
  upload.addEventListener("change", () => ranking.replaceChildren());
  onSubmit(form, "comparing", async () => {
    const about = needed();
    if (!labels.value.trim()) throw new Error("type at least one text, one per line");
    const found = await request("api/zero-shot", { image: about, labels: labels.value });
    if (upload.file === about) ranking.replaceChildren(...found.ranking.map(shown));
  });
  const known = await examples;
  if (!labels.value) labels.value = known.map((example) => example.caption).join("\n");
}

function shown({ text, score }) {
  const item = made("li"), line = made("div", "line"), bar = made("meter");
  line.append(made("span", "", text), made("span", "", score.toFixed(3)));
  Object.assign(bar, { min: 0, max: 1, value: Math.max(0, score) });
  bar.setAttribute("aria-label", `similarity ${score.toFixed(3)}`);
  item.append(line, bar);
  return item;
}
