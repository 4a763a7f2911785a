import { examples, made, neverRead, offer, onSubmit, request } from "./api.js";

export async function startDraw(panel, about) {
  const form = panel.querySelector("form"), text = form.elements.text;
  const { candidates } = form.elements;
  candidates.closest("label").hidden = candidates.disabled = !about.reranked;
  onSubmit(form, "drawing", async () => {
    const asked = text.value.trim();
    if (!asked) throw new Error("type what is to be drawn first");
    const { images, unknown } = await request("api/draw", Object.fromEntries(new FormData(form)));
    const note = panel.querySelector(".note");
    note.hidden = !unknown.length;
    note.textContent = unknown.length ? neverRead(unknown) : "";
    panel.querySelector(".images").replaceChildren(
      ...images.map((url, index) => {
        const image = new Image();
        image.src = url;
        image.alt = `${asked}, image ${index + 1}`;
        const save = made("a", "", "Save");
        save.href = url;
        save.download = `drawn-${index + 1}.png`;
        save.setAttribute("aria-label", `Save image ${index + 1}`);
        const item = made("li");
        item.append(image, save);
        return item;
      }),
    );
  });
  const known = about.texts.length ? about.texts : (await examples).map((one) => one.caption);
  offer(panel.querySelector(".chips"), known.slice(0, 3), text);
}
