// One tab for each capability of the served models.

import { create, request } from "./api.js";
import { startAsk } from "./ask.js";
import { startCaption } from "./caption.js";
import { startChat } from "./chat.js";
import { startDraw } from "./draw.js";
import { setAttentionVisible, startImage } from "./image.js";
import { startSearch } from "./search.js";
import { startZeroShot } from "./zero_shot.js";

const TABS = {
  search: ["Search", startSearch],
  "zero-shot": ["Zero-shot", startZeroShot],
  ask: ["Ask", startAsk],
  caption: ["Caption", startCaption],
  chat: ["Chat", startChat],
  draw: ["Generate", startDraw],
};
const EMBEDS = ["search", "zero-shot"];
const takesImages = (about) => about.inputs.some((one) => one.type === "image");
const find = (id) => document.getElementById(id);

try {
  await start(await request("api/about"));
} catch (error) {
  find("problem").textContent = error.message;
  find("problem").hidden = false;
}

async function start(about) {
  const size = about.parameters >= 1e6
    ? `${(about.parameters / 1e6).toFixed(1)} million` : about.parameters.toLocaleString("en");
  find("kind").textContent = `${about.kind} · ${size} parameters`;
  find("name").textContent = about.name;
  document.title = `${about.name} · amodal`;
  for (const capability of about.capabilities) {
    const [title, startTab] = TABS[capability];
    const tab = create("button", "", title);
    Object.assign(tab, { type: "button", id: `tab-${capability}`, role: "tab" });
    tab.setAttribute("aria-controls", `panel-${capability}`);
    tab.addEventListener("click", () => select(capability, about));
    find("tabs").append(tab);
    startTab(find(`panel-${capability}`), about);
  }
  find("tabs").addEventListener("keydown", (event) => moveFocus(event, about));
  showMetrics(about.metrics);
  find("work").hidden = false;
  const requested = location.hash.slice(1);
  select(about.capabilities.includes(requested) ? requested : about.capabilities[0], about);
  await startImage(about.limits);
}

function select(chosen, about) {
  for (const capability of about.capabilities) {
    const selected = capability === chosen, tab = find(`tab-${capability}`);
    tab.setAttribute("aria-selected", String(selected));
    tab.tabIndex = selected ? 0 : -1;
    find(`panel-${capability}`).hidden = !selected;
  }
  const withoutImage = chosen === "draw" || (EMBEDS.includes(chosen) && !takesImages(about));
  find("image").hidden = withoutImage;
  find("work").classList.toggle("without-image", withoutImage);
  setAttentionVisible(chosen === "ask");
  history.replaceState(null, "", `#${chosen}`);
}

/** Arrow keys, Home and End move between the tabs. */
function moveFocus(event, about) {
  const names = about.capabilities;
  const now = names.findIndex((name) => find(`tab-${name}`) === document.activeElement);
  const next = {
    ArrowRight: (now + 1) % names.length,
    ArrowLeft: (now + names.length - 1) % names.length,
    Home: 0,
    End: names.length - 1,
  }[event.key];
  if (now < 0 || next === undefined) return;
  event.preventDefault();
  select(names[next], about);
  find(`tab-${names[next]}`).focus();
}

function showMetrics(metrics) {
  const rows = Object.entries(metrics).filter(([name]) => !/\/(low|high|chance)$/.test(name));
  find("metrics").hidden = !rows.length;
  find("metrics").querySelector("tbody").append(
    ...rows.map(([name, value]) => {
      const row = create("tr");
      const shown = Number.isInteger(value) ? value.toLocaleString("en") : value.toPrecision(4);
      row.append(create("td", "", name), create("td", "number", shown));
      return row;
    }),
  );
}
