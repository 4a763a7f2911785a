import { made, onSubmit, request } from "./api.js";
import { needed, picture } from "./picture.js";

export function startCaption(panel) {
  const said = panel.querySelector(".said");
  picture.addEventListener("change", () => said.replaceChildren());
  onSubmit(panel.querySelector("form"), "describing", async () => {
    const about = needed();
    const { caption } = await request("api/caption", { picture: about });
    if (picture.file !== about) return; // another picture has come in the meantime
    const item = made("li");
    item.append(made("div", "answer", caption || "(nothing)"));
    said.replaceChildren(item);
    item.scrollIntoView({ block: "nearest" });
  });
}
