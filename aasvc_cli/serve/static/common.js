// What all pages share: the theme, problems in words, and players that keep their place when one switches.
export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

const remembered = (name) => { try { return localStorage.getItem(`aasvc-${name}`); } catch { return null; } };
const remember = (name, value) => { try { localStorage.setItem(`aasvc-${name}`, value); } catch { /* private mode */ } };

const root = document.documentElement;
const preference = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme || (preference.matches ? "dark" : "light")) === "dark";
const showTheme = () => $("#theme").setAttribute("aria-pressed", String(isDark()));
if (["dark", "light"].includes(remembered("theme"))) root.dataset.theme = remembered("theme");
preference.addEventListener("change", showTheme);
$("#theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  remember("theme", root.dataset.theme);
  showTheme();
});
showTheme();

export function problem(message) {
  $("#problem").textContent = message;
  $("#problem").hidden = !message;
}

/** What the page says before anything goes on. */
export const idle = $("#status")?.textContent ?? "";

/** What goes on, in words. */
export function status(text) {
  $("#status").textContent = text;
}

/** Work that may fail. Then the reason is shown, and the status says what `now` gives in place of what was under way. */
export async function attempt(work, now = () => idle) {
  problem("");
  try {
    await work();
  } catch (error) {
    problem(error.message);
    status(now());
  }
}

/** A request to the server; rejects with the sentence that the server gives as the reason. */
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer; is aasvc serve still running?");
  }
  if (response.ok) return response;
  const reason = await response.json().catch(() => null);
  throw new Error(reason?.error?.message ?? `the server answers ${response.status}`);
}

/** Play a sound; rejects with a sentence. */
export async function hear(audio) {
  try {
    await audio.play();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.name === "NotAllowedError") throw new Error("the browser plays nothing by itself here; press the button that plays");
    if (!audio.src.startsWith("blob:")) await ask(audio.src); // says why the server gives nothing
    throw new Error("this browser cannot play the recording");
  }
}

/** Whether a key is a command here, and not text or the business of the element that has the focus. */
export function isCommand(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return false;
  if (event.target.matches("input:not([type=range]):not([type=checkbox]):not([type=file]), select, textarea")) return false;
  return !(event.key === " " && event.target.matches("button, a, summary, input"));
}

/** Recordings of one sentence below each other, of which one is heard at a time. */
export class Players {
  constructor(takes) {
    this.takes = takes;
    this.chosen = null;
    for (const take of takes) {
      const audio = $("audio", take), seek = $(".seek", take);
      audio.preservesPitch = true;
      $(".play", take).addEventListener("click", () => this.toggle(take));
      seek.addEventListener("input", () => { this.choose(take); audio.currentTime = Number(seek.value); });
      audio.addEventListener("loadedmetadata", () => {
        seek.max = audio.duration.toFixed(3);
        $(".seconds", take).textContent = `${audio.duration.toFixed(2)} s`;
      });
      audio.addEventListener("timeupdate", () => this.show(take));
      for (const name of ["play", "pause", "ended"]) audio.addEventListener(name, () => this.show(take));
      audio.addEventListener("play", () => this.follow(take));
      audio.addEventListener("error", () => {
        if (audio.getAttribute("src")) $(".seconds", take).textContent = "cannot be played by this browser";
      });
    }
    document.addEventListener("keydown", (event) => this.key(event));
  }

  get shown() { return this.takes.filter((take) => !take.hidden); }

  set rate(value) {
    for (const take of this.takes) $("audio", take).playbackRate = $("audio", take).defaultPlaybackRate = value;
  }

  /** Give a take its sound; null takes it away. */
  load(take, blob) {
    const audio = $("audio", take);
    audio.pause();
    if (audio.src) URL.revokeObjectURL(audio.src);
    take.hidden = blob === null;
    $("img", take).hidden = true;
    for (const path of $$(".over path", take)) path.setAttribute("d", "");
    if (blob === null) audio.removeAttribute("src"); else audio.src = URL.createObjectURL(blob);
  }

  /** The picture of a sound, which the server draws. */
  async draw(take, blob) {
    const src = $("audio", take).src;
    const response = await ask("/picture", { method: "POST", body: blob });
    if (response.status === 204) return; // too long to show
    const { image, f0, words } = await response.json();
    if ($("audio", take).src !== src) return; // another sound came meanwhile
    const img = $("img", take);
    img.src = image;
    img.alt = `Mel spectrogram, ${words}`;
    img.hidden = false;
    for (const path of $$(".over path", take)) path.setAttribute("d", f0);
  }

  show(take) {
    const audio = $("audio", take), seek = $(".seek", take), on = !audio.paused && !audio.ended;
    seek.value = audio.currentTime;
    seek.setAttribute("aria-valuetext", `${audio.currentTime.toFixed(1)} of ${Number(seek.max).toFixed(1)} seconds`);
    take.classList.toggle("playing", on);
    $(".play", take).setAttribute("aria-pressed", String(on));
  }

  follow(take) {
    this.show(take);
    if (!$("audio", take).paused) requestAnimationFrame(() => this.follow(take));
  }

  choose(take) {
    this.chosen = take;
    for (const other of this.takes) other.classList.toggle("chosen", other === take);
  }

  async play(take) {
    for (const other of this.takes) if (other !== take) $("audio", other).pause();
    this.choose(take);
    await hear($("audio", take));
  }

  toggle(take) {
    if ($("audio", take).paused) this.start(take); else $("audio", take).pause();
  }

  start(take) {
    this.play(take).catch((error) => problem(error.message));
  }

  /** Another recording of the same sentence, at the same share of its length. */
  switchTo(take) {
    const before = this.chosen && $("audio", this.chosen), after = $("audio", take);
    const on = before && !before.paused;
    if (before && before.duration && after.duration && take !== this.chosen) {
      after.currentTime = before.currentTime / before.duration * after.duration;
    }
    if (on) this.start(take); else { this.choose(take); this.show(take); }
  }

  key(event) {
    if (!isCommand(event) || !this.shown.length) return;
    const take = this.shown.find((each) => each.dataset.letter === event.key.toUpperCase());
    if (take) { event.preventDefault(); this.switchTo(take); }
    if (event.key === " ") { event.preventDefault(); this.toggle(this.chosen ?? this.shown[0]); }
  }
}
