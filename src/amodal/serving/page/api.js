// Requests, and how a form waits for them.

/** What the server said, or an Error whose message is for a person. */
export async function request(path, fields, { signal, onLine } = {}) {
  const options = { signal };
  if (fields) {
    options.method = "POST";
    options.body = new FormData();
    for (const [name, value] of Object.entries(fields)) {
      if (value !== null && value !== undefined && value !== "") options.body.append(name, value);
    }
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer; is `amodal serve` still running?");
  }
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Error(said.detail ?? `the server answered ${response.status}`);
  }
  return onLine ? lines(response, onLine) : response.json();
}

/** A note on words that a model has no token for. */
export const neverRead = (words) => `The model has never read: ${words.join(", ")}`;

/** Scenes to try the page with; none where they cannot be had. */
export const examples = request("api/examples").catch(() => []);

/** Calls `onLine` with every line of JSON as it comes; gives back the last one. */
async function lines(response, onLine) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", last = null;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) {
      last = JSON.parse(part);
      if (last.error) throw new Error(last.error);
      onLine(last);
    }
  }
  return last;
}

/** Runs `action` at every submit, one at a time, with progress and errors beside the button. */
export function onSubmit(form, doing, action) {
  const button = form.querySelector("[type=submit]");
  const status = form.querySelector(".status");
  const problem = form.querySelector(".problem");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    problem.hidden = true;
    const start = Date.now();
    const tick = () => {
      const seconds = Math.floor((Date.now() - start) / 1000);
      status.textContent = seconds < 2 ? `${doing} …` : `${doing} … ${seconds} s`;
    };
    button.disabled = true;
    status.classList.add("busy");
    tick();
    const timer = setInterval(tick, 1000);
    let said = "";
    try {
      said = (await action()) ?? "";
    } catch (error) {
      if (error.name !== "AbortError") {
        problem.textContent = error.message;
        problem.hidden = false;
      }
    } finally {
      clearInterval(timer);
      status.classList.remove("busy");
      status.textContent = said;
      button.disabled = false;
    }
  });
}

/** A new element with a class and a text. */
export function made(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.textContent = text;
  return element;
}

/** Buttons that put a text into a field. */
export function offer(chips, texts, field) {
  chips.replaceChildren(
    ...texts.map((text) => {
      const chip = made("button", "", text);
      chip.type = "button";
      chip.addEventListener("click", () => {
        field.value = text;
        field.focus();
      });
      return chip;
    }),
  );
}
