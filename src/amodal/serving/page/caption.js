import { create, onSubmit, request } from "./api.js";
import { requireFile, upload } from "./image.js";

export function startCaption(panel) {
  const captions = panel.querySelector(".answers");
  upload.addEventListener("change", () => captions.replaceChildren());
  onSubmit(panel.querySelector("form"), "captioning", async () => {
    const image = requireFile();
    const { caption } = await request("api/caption", { image });
    if (upload.file !== image) return; // the image was changed in the meantime
    const item = create("li");
    item.append(create("div", "answer", caption || "(empty)"));
    captions.replaceChildren(item);
    item.scrollIntoView({ block: "nearest" });
  });
}
