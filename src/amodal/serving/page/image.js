// The image that all tabs share: chosen, dropped, pasted or taken from the examples.

import { examples, made } from "./api.js";

const find = (id) => document.getElementById(id);
const frame = find("frame"), preview = find("preview"), overlay = find("overlay");
const problem = find("image-problem"), opacity = find("opacity");
let look = null, wanted = false;

/** The image as it is now: `file`, null without one, and `example`, what is known about it. */
export const upload = Object.assign(new EventTarget(), { file: null, example: null });

/** The file, or an Error that asks for one. */
export function needed() {
  if (!upload.file) throw new Error("choose an image first, or take one of the examples");
  return upload.file;
}

export async function startImage(limits) {
  find("file").addEventListener("change", (event) => {
    if (event.target.files[0]) choose(event.target.files[0], limits);
    event.target.value = ""; // so that the same file can be chosen again
  });
  find("remove").addEventListener("click", () => {
    set(null);
    find("file").focus();
  });
  const drop = find("drop");
  // An image that misses the frame would otherwise replace the page.
  for (const name of ["dragover", "drop"]) addEventListener(name, (e) => e.preventDefault());
  drop.addEventListener("dragover", () => drop.classList.add("over"));
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    drop.classList.remove("over");
    const file = event.dataTransfer.files[0];
    if (file) choose(file, limits);
    else complain("that was no file; save the image first, or copy and paste it");
  });
  addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((f) => f.type.startsWith("image/"));
    if (file && !find("image").hidden) choose(file, limits);
  });
  preview.addEventListener("load", paint);
  preview.addEventListener("error", () => {
    // A TIFF, say: the model can read what the browser cannot show.
    if (upload.file) preview.alt = `${upload.file.name} (the browser cannot show it)`;
  });
  opacity.addEventListener("input", paint);
  new ResizeObserver(paint).observe(preview);
  await offerExamples();
}

async function offerExamples() {
  const found = await examples;
  const list = find("examples").querySelector("ul");
  for (const [index, example] of found.entries()) {
    const button = made("button");
    button.type = "button";
    button.title = example.caption;
    const image = new Image();
    image.src = example.image;
    image.alt = `example ${index + 1}: ${example.caption}`;
    button.append(image);
    button.addEventListener("click", () => {
      set(fileOf(example.image, `example-${index + 1}.png`), example);
      for (const other of list.querySelectorAll("button")) {
        other.setAttribute("aria-pressed", String(other === button));
      }
    });
    const item = made("li");
    item.append(button);
    list.append(item);
  }
  find("examples").hidden = !found.length;
}

function fileOf(url, name) {
  const bytes = Uint8Array.from(atob(url.split(",")[1]), (c) => c.charCodeAt(0));
  return new File([bytes], name, { type: "image/png" });
}

function choose(file, limits) {
  if (file.size > limits.image_bytes) {
    complain(`${file.name} is larger than ${Math.round(limits.image_bytes / 2 ** 20)} MiB`);
  } else if (file.type && !file.type.startsWith("image/")) {
    complain(`${file.name} is not an image`);
  } else {
    set(file);
  }
}

function complain(message) {
  problem.textContent = message;
  problem.hidden = false;
}

function set(file, example = null) {
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

/** Lays the attention of an answer over the image; null takes it away. */
export function showAttention(found) {
  look = found;
  paint();
}

/** Only where questions are asked does the attention belong to what is seen beside it. */
export function wantAttention(yes) {
  wanted = yes;
  paint();
}

function paint() {
  const shown = look && wanted;
  find("attention-controls").hidden = !shown;
  const pen = overlay.getContext("2d");
  overlay.width = preview.clientWidth * devicePixelRatio;
  overlay.height = preview.clientHeight * devicePixelRatio;
  if (!shown || !overlay.width || !overlay.height) return;
  const small = new OffscreenCanvas(look.side, look.side);
  const most = Math.max(...look.shares);
  const cells = new ImageData(look.side, look.side);
  look.shares.forEach((share, i) => cells.data.set(heat(share / most), 4 * i));
  small.getContext("2d").putImageData(cells, 0, 0);
  pen.globalAlpha = opacity.value / 100;
  pen.imageSmoothingQuality = "high";
  const width = overlay.width, height = overlay.height, side = Math.min(width, height);
  if (look.of === "middle") {
    pen.drawImage(small, (width - side) / 2, (height - side) / 2, side, side);
  } else {
    pen.drawImage(small, 0, 0, width, height);
  }
}

// From dark violet over red to yellow, as the plots of a report have it ("inferno").
const HEAT = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

function heat(share) {
  const place = share * (HEAT.length - 1), low = Math.min(Math.floor(place), HEAT.length - 2);
  const mixed = HEAT[low].map((c, i) => c + (place - low) * (HEAT[low + 1][i] - c));
  return [...mixed, 255];
}
