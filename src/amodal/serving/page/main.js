// What is served decides which tabs there are.

import { made, request } from "./api.js";
import { startAsk } from "./ask.js";
import { startCaption } from "./caption.js";
import { startChat } from "./chat.js";
import { startDraw } from "./draw.js";
import { startImage, wantAttention } from "./image.js";
import { startSearch } from "./search.js";
import { startZeroShot } from "./zero_shot.js";

const TABS = {
  search: ["Search", startSearch],
  "zero-shot": ["Compare", startZeroShot],
  ask: ["Ask", startAsk],
  caption: ["Describe", startCaption],
  chat: ["Talk", startChat],
  draw: ["Draw", startDraw],
};
const find = (id) => document.getElementById(id);

try {
  await start(await request("api/about"));
} catch (error) {
  find("trouble").textContent = error.message;
  find("trouble").hidden = false;
}

async function start(about) {
  const size = about.parameters >= 1e6
    ? `${(about.parameters / 1e6).toFixed(1)} million` : about.parameters.toLocaleString("en");
  find("kind").textContent = `${about.kind} · ${size} parameters`;
  find("name").textContent = about.name;
  document.title = `${about.name} · amodal`;
  for (const ability of about.abilities) {
    const [title, startTab] = TABS[ability];
    const tab = made("button", "", title);
    Object.assign(tab, { type: "button", id: `tab-${ability}`, role: "tab" });
    tab.setAttribute("aria-controls", `panel-${ability}`);
    tab.addEventListener("click", () => select(ability, about));
    find("tabs").append(tab);
    startTab(find(`panel-${ability}`), about);
  }
  find("tabs").addEventListener("keydown", (event) => moved(event, about));
  showFigures(about.figures);
  find("work").hidden = false;
  const wanted = location.hash.slice(1);
  select(about.abilities.includes(wanted) ? wanted : about.abilities[0], about);
  await startImage(about.limits);
}

function select(chosen, about) {
  for (const ability of about.abilities) {
    const here = ability === chosen, tab = find(`tab-${ability}`);
    tab.setAttribute("aria-selected", String(here));
    tab.tabIndex = here ? 0 : -1;
    find(`panel-${ability}`).hidden = !here;
  }
  find("image").hidden = chosen === "draw";
  find("work").classList.toggle("without-image", chosen === "draw");
  wantAttention(chosen === "ask");
  history.replaceState(null, "", `#${chosen}`);
}

/** Arrows, Home and End go from tab to tab. */
function moved(event, about) {
  const names = about.abilities;
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

function showFigures(figures) {
  const rows = Object.entries(figures).filter(([name]) => !/\/(low|high|chance)$/.test(name));
  find("figures").hidden = !rows.length;
  find("figures").querySelector("tbody").append(
    ...rows.map(([name, value]) => {
      const row = made("tr");
      const shown = Number.isInteger(value) ? value.toLocaleString("en") : value.toPrecision(4);
      row.append(made("td", "", name), made("td", "number", shown));
      return row;
    }),
  );
}
