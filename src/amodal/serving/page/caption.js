import { made, onSubmit, request } from "./api.js";
import { needed, upload } from "./image.js";

export function startCaption(panel) {
  const said = panel.querySelector(".said");
  upload.addEventListener("change", () => said.replaceChildren());
  onSubmit(panel.querySelector("form"), "describing", async () => {
    const about = needed();
    const { caption } = await request("api/caption", { image: about });
    if (upload.file !== about) return; // another image has come in the meantime
    const item = made("li");
    item.append(made("div", "answer", caption || "(nothing)"));
    said.replaceChildren(item);
    item.scrollIntoView({ block: "nearest" });
  });
}
