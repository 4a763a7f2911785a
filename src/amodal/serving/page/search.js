import { create, onSubmit, request, suggest } from "./api.js";
import { upload } from "./image.js";

export function startSearch(panel, about) {
  const form = panel.querySelector("form"), { text, modality } = form.elements;
  const rows = Object.entries(about.index.rows);
  const count = rows.map(([name, n]) => `${n.toLocaleString("en")} ${name}`).join(", ");
  panel.querySelector("#rows").textContent = rows.length
    ? `The index has ${count} rows.` : "The index is empty.";
  panel.querySelector("#columns").textContent =
    `Columns: ${Object.keys(about.index.columns).join(", ")}. Text goes in single quotes.`;
  for (const [name] of rows) modality.append(new Option(`${name} rows`, name));
  if (rows.length > 1) modality.append(new Option("everything", "all"));
  upload.addEventListener("change", () => {
    suggest(panel.querySelector(".chips"), upload.example ? [upload.example.caption] : [], text);
  });

  onSubmit(form, "searching", async () => {
    if (!text.value.trim() && !upload.file) throw new Error("type a text or choose an image");
    const fields = { ...Object.fromEntries(new FormData(form)), image: upload.file };
    const { hits } = await request("api/search", fields);
    panel.querySelector(".hits").replaceChildren(...hits.map(hitItem));
    return hits.length ? "" : "no hits";
  });
}

function hitItem(hit) {
  const item = create("li");
  if (hit.thumbnail) {
    const image = new Image();
    image.src = hit.thumbnail;
    image.alt = hit.text ?? hit.id;
    item.append(image);
  }
  const metadata = Object.entries(hit.metadata).map(([name, value]) => `${name} ${value}`);
  item.title = [hit.text ?? "", ...metadata.slice(0, 12)].join("\n");
  item.append(create("div", "rank", `${hit.rank}. ${hit.score.toFixed(3)}`));
  if (hit.text) item.append(create("div", "text", hit.text));
  item.append(create("div", "file", hit.path ?? hit.id));
  return item;
}
