// The image that all tabs share: chosen, dropped, pasted or one of the examples.

import { create, examples } from "./api.js";

const find = (id) => document.getElementById(id);
const frame = find("frame"), preview = find("preview"), overlay = find("overlay");
const problem = find("image-problem"), opacity = find("opacity");
let attention = null, visible = false;

/** The current image: `file`, or null, and `example`, its scene where it is an example. */
export const upload = Object.assign(new EventTarget(), { file: null, example: null });

/** The file; throws an Error that asks for one. */
export function requireFile() {
  if (!upload.file) throw new Error("choose an image first, or one of the examples");
  return upload.file;
}

export async function startImage(limits) {
  find("file").addEventListener("change", (event) => {
    if (event.target.files[0]) choose(event.target.files[0], limits);
    event.target.value = ""; // so that choosing the same file again is a change
  });
  find("remove").addEventListener("click", () => {
    setImage(null);
    find("file").focus();
  });
  const drop = find("drop");
  // An image dropped outside the frame would otherwise replace the page.
  for (const name of ["dragover", "drop"]) addEventListener(name, (e) => e.preventDefault());
  drop.addEventListener("dragover", () => drop.classList.add("over"));
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    drop.classList.remove("over");
    const file = event.dataTransfer.files[0];
    if (file) choose(file, limits);
    else showProblem("that is not a file; save the image first, or copy and paste it");
  });
  addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((f) => f.type.startsWith("image/"));
    if (file && !find("image").hidden) choose(file, limits);
  });
  preview.addEventListener("load", drawOverlay);
  preview.addEventListener("error", () => {
    // The model reads formats, such as TIFF, that the browser cannot show.
    if (upload.file) preview.alt = `${upload.file.name} (the browser cannot show it)`;
  });
  opacity.addEventListener("input", drawOverlay);
  new ResizeObserver(drawOverlay).observe(preview);
  await showExamples();
}

async function showExamples() {
  const found = await examples;
  const list = find("examples").querySelector("ul");
  for (const [index, example] of found.entries()) {
    const button = create("button");
    button.type = "button";
    button.title = example.caption;
    const image = new Image();
    image.src = example.image;
    image.alt = `example ${index + 1}: ${example.caption}`;
    button.append(image);
    button.addEventListener("click", () => {
      setImage(fileOf(example.image, `example-${index + 1}`), example);
      for (const other of list.querySelectorAll("button")) {
        other.setAttribute("aria-pressed", String(other === button));
      }
    });
    const item = create("li");
    item.append(button);
    list.append(item);
  }
  find("examples").hidden = !found.length;
}

function fileOf(url, name) {
  const [head, content] = url.split(",");
  const type = head.slice("data:".length, head.indexOf(";"));
  const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
  return new File([bytes], `${name}.${type.split("/")[1]}`, { type });
}

function choose(file, limits) {
  if (file.size > limits.image_bytes) {
    showProblem(`${file.name} is larger than ${Math.round(limits.image_bytes / 2 ** 20)} MiB`);
  } else if (file.type && !file.type.startsWith("image/")) {
    showProblem(`${file.name} is not an image`);
  } else {
    setImage(file);
  }
}

function showProblem(message) {
  problem.textContent = message;
  problem.hidden = false;
}

function setImage(file, example = null) {
  problem.hidden = true;
  showAttention(null);
  for (const button of find("examples").querySelectorAll("[aria-pressed]")) {
    button.removeAttribute("aria-pressed");
  }
  if (preview.src) URL.revokeObjectURL(preview.src);
  if (file) {
    preview.alt = `the chosen image: ${example ? example.caption : file.name}`;
    preview.src = URL.createObjectURL(file);
  } else {
    preview.removeAttribute("src");
  }
  frame.hidden = !file;
  find("remove").hidden = !file;
  find("invite").hidden = Boolean(file);
  document.querySelector("label[for=file]").textContent = file
    ? "Choose another" : "Choose an image";
  upload.file = file;
  upload.example = example;
  upload.dispatchEvent(new Event("change"));
}

/** Shows the attention map of an answer over the image; null removes it. */
export function showAttention(map) {
  attention = map;
  drawOverlay();
}

/** The attention map is shown in the tab of questions only. */
export function setAttentionVisible(yes) {
  visible = yes;
  drawOverlay();
}

function drawOverlay() {
  const shown = attention && visible;
  find("attention-controls").hidden = !shown;
  const context = overlay.getContext("2d");
  overlay.width = preview.clientWidth * devicePixelRatio;
  overlay.height = preview.clientHeight * devicePixelRatio;
  if (!shown || !overlay.width || !overlay.height) return;
  const small = new OffscreenCanvas(attention.side, attention.side);
  const largest = Math.max(...attention.weights);
  const cells = new ImageData(attention.side, attention.side);
  attention.weights.forEach((weight, i) => cells.data.set(color(weight / largest), 4 * i));
  small.getContext("2d").putImageData(cells, 0, 0);
  context.globalAlpha = opacity.value / 100;
  context.imageSmoothingQuality = "high";
  const width = overlay.width, height = overlay.height, side = Math.min(width, height);
  if (attention.region === "center_crop") {
    context.drawImage(small, (width - side) / 2, (height - side) / 2, side, side);
  } else {
    context.drawImage(small, 0, 0, width, height);
  }
}

// The colormap "inferno", as in the plots of reports.
const COLORMAP = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

function color(value) {
  const at = value * (COLORMAP.length - 1), low = Math.min(Math.floor(at), COLORMAP.length - 2);
  const mix = COLORMAP[low].map((c, i) => c + (at - low) * (COLORMAP[low + 1][i] - c));
  return [...mix, 255];
}
