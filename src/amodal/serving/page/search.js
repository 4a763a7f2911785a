import { create, onSubmit, request, suggest } from "./api.js";
import { upload } from "./image.js";
import { recorder } from "./record.js";

/** The inputs that the text field and the image panel stand for, and all others. */
export function inputsOf(about) {
  const textInput = about.inputs.find((one) => one.field_type === "text");
  const imageInput = about.inputs.find((one) => one.type === "image");
  const others = about.inputs.filter((one) => one !== textInput && one !== imageInput);
  return { textInput, imageInput, others };
}

const isGiven = (value) => (value instanceof File ? value.size > 0 : Boolean(value));

/** A field for the value of an input: a file, or a text as on the command line. */
export function inputField({ name, type, field_type, accept }) {
  const label = create("label", "wide", name === type ? name : `${name} (${type})`);
  const field = create(field_type === "file" ? "input" : "textarea");
  Object.assign(field, { name, id: `search-input-${name}` });
  if (field_type === "file") Object.assign(field, { type: "file", accept: accept.join(",") });
  else Object.assign(field, { rows: 2, spellcheck: false });
  label.htmlFor = field.id;
  label.append(field);
  if (type === "audio") label.append(recorder(field));
  return label;
}

export function startSearch(panel, about) {
  const form = panel.querySelector("form"), { text, input } = form.elements;
  const rows = Object.entries(about.index.rows);
  const count = rows.map(([name, n]) => `${n.toLocaleString("en")} ${name} embeddings`).join(", ");
  panel.querySelector("#rows").textContent = rows.length
    ? `The index has ${count}.` : "The index is empty.";
  panel.querySelector("#columns").textContent =
    `Columns: ${Object.keys(about.index.columns).join(", ")}. Text goes in single quotes.`;
  for (const [name] of rows) input.append(new Option(`${name} rows`, name));
  if (rows.length > 1) input.append(new Option("everything", "all"));
  upload.addEventListener("change", () => {
    suggest(panel.querySelector(".chips"), upload.example ? [upload.example.caption] : [], text);
  });

  const { textInput, imageInput, others } = inputsOf(about);
  text.closest("div").hidden = !textInput;
  panel.querySelector("#search-inputs").replaceChildren(...others.map(inputField));

  onSubmit(form, "searching", async () => {
    const fields = Object.fromEntries(new FormData(form));
    delete fields.text;
    if (textInput) fields[textInput.name] = text.value.trim();
    if (imageInput) fields[imageInput.name] = upload.file;
    const given = about.inputs.some(({ name }) => isGiven(fields[name]));
    if (!given) throw new Error(`provide ${about.inputs.map((one) => one.name).join(" or ")}`);
    const { hits, notes, left_out } = await request("api/search", fields);
    panel.querySelector(".notes").replaceChildren(...notes.map((note) => create("li", "", note)));
    panel.querySelector(".hits").replaceChildren(...hits.map(hitItem));
    return hits.length ? "" : left_out ? `no hits, ${left_out} left out` : "no hits";
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
  if (hit.match) {
    const { label, probability } = hit.match;
    item.append(create("div", `match ${label.split(" ")[0]}`, `${label} ${probability.toFixed(2)}`));
  }
  if (hit.text) item.append(create("div", "text", hit.text));
  const player = hit.media && playerOf(hit.media);
  if (player) item.append(player);
  item.append(create("div", "file", hit.path ?? hit.id));
  if (hit.media?.span) item.append(create("div", "span", hit.media.span.map(clock).join(" – ")));
  return item;
}

/** A player of a recording or a video, at the moment that matched; null for other files. */
function playerOf({ type, url, span }) {
  const kind = type.split("/")[0];
  if (kind !== "audio" && kind !== "video") return null;
  const player = create(kind);
  Object.assign(player, { controls: true, preload: "none" });
  player.src = span ? `${url}#t=${span.join(",")}` : url;
  return player;
}

/** Seconds as minutes and seconds. */
const clock = (seconds) =>
  `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
