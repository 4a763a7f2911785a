import { create, examples, onSubmit, outOfVocabulary, request, suggest } from "./api.js";

export async function startDraw(panel, about) {
  const form = panel.querySelector("form"), text = form.elements.text;
  const { candidates } = form.elements;
  candidates.closest("label").hidden = candidates.disabled = !about.has_reranker;
  onSubmit(form, "generating", async () => {
    const caption = text.value.trim();
    if (!caption) throw new Error("type a text first");
    const found = await request("api/draw", Object.fromEntries(new FormData(form)));
    const note = panel.querySelector(".note"), unknown = found.out_of_vocabulary;
    note.hidden = !unknown.length;
    note.textContent = unknown.length ? outOfVocabulary(unknown) : "";
    panel.querySelector(".images").replaceChildren(
      ...found.images.map((url, index) => {
        const image = new Image();
        image.src = url;
        image.alt = `${caption}, image ${index + 1}`;
        const save = create("a", "", "Save");
        save.href = url;
        save.download = `image-${index + 1}.png`;
        save.setAttribute("aria-label", `Save image ${index + 1}`);
        const item = create("li");
        item.append(image, save);
        return item;
      }),
    );
  });
  const texts = about.example_prompts.length ? about.example_prompts : (await examples).map((one) => one.caption);
  suggest(panel.querySelector(".chips"), texts.slice(0, 3), text);
}
