// Requests to the server, and forms that submit them.

/** The JSON response; throws an Error with a readable message. */
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
    const body = await response.json().catch(() => ({}));
    throw new Error(body.detail ?? `the server answered ${response.status}`);
  }
  return onLine ? lines(response, onLine) : response.json();
}

/** A note on words that the tokenizer has no token for. */
export const outOfVocabulary = (words) => `Out of vocabulary: ${words.join(", ")}`;

/** Example scenes; empty where the request fails. */
export const examples = request("api/examples").catch(() => []);

/** Calls `onLine` with every line of JSON as it arrives; returns the last one. */
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

/** Runs `action` on submit, one at a time, and shows progress and errors beside the button. */
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
    let message = "";
    try {
      message = (await action()) ?? "";
    } catch (error) {
      if (error.name !== "AbortError") {
        problem.textContent = error.message;
        problem.hidden = false;
      }
    } finally {
      clearInterval(timer);
      status.classList.remove("busy");
      status.textContent = message;
      button.disabled = false;
    }
  });
}

/** A new element with a class and a text. */
export function create(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.textContent = text;
  return element;
}

/** Buttons that fill a field with a suggested text. */
export function suggest(chips, texts, field) {
  chips.replaceChildren(
    ...texts.map((text) => {
      const chip = create("button", "", text);
      chip.type = "button";
      chip.addEventListener("click", () => {
        field.value = text;
        field.focus();
      });
      return chip;
    }),
  );
}
