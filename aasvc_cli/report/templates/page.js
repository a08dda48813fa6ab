"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const root = document.documentElement;
  root.classList.add("scripted");
  $$(".tools, .filter, .columns, .play, .seek").forEach((element) => { element.hidden = false; });
  $$("audio").forEach((audio) => { audio.controls = false; });

  // --- theme: what the system prefers until somebody chooses ------------------------------------------------------
  const theme = $("#theme");
  const preference = matchMedia("(prefers-color-scheme: dark)");
  const remembered = (name) => { try { return localStorage.getItem(`aasvc-${name}`); } catch { return null; } };
  const remember = (name, value) => { try { localStorage.setItem(`aasvc-${name}`, value); } catch { /* private mode */ } };
  const isDark = () => (root.dataset.theme || (preference.matches ? "dark" : "light")) === "dark";
  const showTheme = () => theme.setAttribute("aria-pressed", String(isDark()));
  if (["dark", "light"].includes(remembered("theme"))) root.dataset.theme = remembered("theme");
  preference.addEventListener("change", showTheme);
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember("theme", root.dataset.theme);
    showTheme();
  });
  showTheme();

  // --- players ----------------------------------------------------------------------------------------------------
  const list = $("#list");
  const articles = () => (list ? $$("article", list).filter((article) => !article.hidden) : []);
  let current = null; // the utterance that the keyboard acts on
  const chosenTakes = new WeakMap(); // article -> the recording chosen in it
  let playing = null; // the recording that is heard

  const takes = (article) => $$(".take", article);
  const audioOf = (take) => $("audio", take);
  const lengthOf = (take) => {
    const known = audioOf(take).duration;
    return Number.isFinite(known) && known > 0 ? known : Number(take.dataset.seconds);
  };
  const positions = new WeakMap(); // take -> seconds, also before its sound is loaded
  const position = (take) => positions.get(take) ?? 0;
  const chosen = (article) => chosenTakes.get(article) || takes(article).find((take) => take.matches(".conversion")) || takes(article)[0];

  function show(take) {
    const seek = $(".seek", take);
    seek.value = position(take);
    seek.setAttribute("aria-valuetext", `${position(take).toFixed(1)} of ${lengthOf(take).toFixed(1)} seconds`);
    const on = take === playing;
    take.classList.toggle("playing", on);
    $(".play", take).setAttribute("aria-pressed", String(on));
  }

  function choose(take) {
    const article = take.closest("article");
    makeCurrent(article);
    for (const other of takes(article)) other.classList.toggle("chosen", other === take);
    chosenTakes.set(article, take);
  }

  function place(take, seconds) {
    positions.set(take, Math.max(0, Math.min(seconds, lengthOf(take))));
    const audio = audioOf(take);
    if (audio.readyState >= 1) audio.currentTime = position(take);
    show(take);
  }

  function pause() {
    if (!playing) return;
    const take = playing;
    playing = null;
    audioOf(take).pause();
    show(take);
  }

  function loaded(audio) {
    if (audio.readyState >= 1) return Promise.resolve();
    audio.preload = "auto";
    return new Promise((resolve, reject) => {
      audio.addEventListener("loadedmetadata", resolve, { once: true });
      audio.addEventListener("error", () => reject(audio.error), { once: true });
      audio.load();
    });
  }

  async function play(take, seconds = position(take)) {
    if (playing !== take) pause();
    choose(take);
    if (seconds >= lengthOf(take) - 0.02) seconds = 0;
    playing = take;
    place(take, seconds);
    const audio = audioOf(take);
    try {
      await loaded(audio);
      if (playing !== take) return; // somebody was faster
      audio.currentTime = position(take);
      await audio.play();
      requestAnimationFrame(follow);
    } catch (error) {
      // interrupted by a pause; anything else is told where the listener looks
      if (error?.name !== "AbortError" && playing === take) {
        playing = null;
        show(take);
        $(".seconds", take).textContent = "cannot be played here";
      }
    }
  }

  function follow() {
    if (!playing) return;
    const audio = audioOf(playing);
    if (!audio.seeking && !audio.paused) { positions.set(playing, audio.currentTime); show(playing); }
    requestAnimationFrame(follow);
  }

  function toggle(take) {
    if (playing === take) pause(); else play(take);
  }

  // another recording of the same sentence, at the same share of its length
  function switchTo(take) {
    const before = chosen(take.closest("article"));
    const share = position(before) / lengthOf(before);
    const wasPlaying = playing !== null;
    const focused = document.activeElement;
    const follows = focused && focused.matches(".play, .seek") ? focused.className : null;
    choose(take);
    if (wasPlaying) play(take, share * lengthOf(take)); else place(take, share * lengthOf(take));
    // otherwise the space bar would act on the recording from before
    if (follows) $("." + follows.split(" ")[0], take).focus({ preventScroll: true });
  }

  for (const take of $$(".take")) {
    const audio = audioOf(take);
    const seek = $(".seek", take);
    $(".play", take).addEventListener("click", () => toggle(take));
    seek.addEventListener("input", () => {
      const seconds = Number(seek.value);
      choose(take);
      if (playing && playing !== take) play(take, seconds); else place(take, seconds);
    });
    seek.addEventListener("pointerup", () => { if (playing !== take) play(take, Number(seek.value)); });
    audio.addEventListener("ended", () => { if (playing === take) { playing = null; place(take, 0); } });
    audio.addEventListener("loadedmetadata", () => { seek.max = lengthOf(take).toFixed(3); show(take); });
    show(take);
  }

  function makeCurrent(article) {
    if (current === article) return;
    if (current) current.classList.remove("current");
    current = article;
    if (current) current.classList.add("current");
  }

  function go(step) {
    const visible = articles();
    if (!visible.length) return;
    const at = visible.indexOf(current);
    const next = visible[at < 0 ? 0 : Math.max(0, Math.min(visible.length - 1, at + step))];
    if (next === current && at >= 0) return;
    const carryOn = playing !== null;
    const letter = current && chosen(current).dataset.letter;
    pause();
    makeCurrent(next);
    const take = takes(next).find((candidate) => candidate.dataset.letter === letter) || chosen(next);
    choose(take);
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
    if (carryOn) play(take, 0);
  }

  // --- sort and filter --------------------------------------------------------------------------------------------
  const body = $("#scores tbody");
  const find = $("#find"), sort = $("#sort"), count = $("#count");
  const where = { measure: $("#where-measure"), relation: $("#where-relation"), value: $("#where-value") };
  const buttons = $$("#scores thead button[data-sort]");
  const data = JSON.parse($("#utterances")?.dataset.values || "{}"); // utterance -> rank and system/measure -> value
  const items = () => [...(body ? body.rows : []), ...(list ? $$("article", list) : [])];
  const valueOf = (item, key) => data[item.dataset.name]?.[key] ?? null;
  const collator = new Intl.Collator(undefined, { numeric: true });

  function order(key, falling) {
    const compare = (one, other) => {
      const names = collator.compare(one.dataset.name, other.dataset.name);
      if (key === "name") return falling ? -names : names;
      const a = valueOf(one, key), b = valueOf(other, key);
      if (a === null || b === null) return (a === null) - (b === null) || names; // what is not defined comes last
      return (falling ? b - a : a - b) || names;
    };
    if (body) body.append(...[...body.rows].sort(compare));
    if (list) list.append(...$$("article", list).sort(compare));
    for (const button of buttons) {
      const on = button.dataset.sort === key;
      button.closest("th").setAttribute("aria-sort", on ? (falling ? "descending" : "ascending") : "none");
    }
    const name = (falling ? "-" : "") + key;
    if (sort && [...sort.options].some((option) => option.value === name)) sort.value = name;
  }

  for (const button of buttons) {
    button.addEventListener("click", () => {
      const was = button.closest("th").getAttribute("aria-sort");
      order(button.dataset.sort, was === "ascending");
    });
  }
  sort?.addEventListener("change", () => {
    const falling = sort.value.startsWith("-");
    order(falling ? sort.value.slice(1) : sort.value, falling);
  });

  function filter() {
    const words = find.value.normalize("NFKC").toLowerCase().split(/\s+/).filter(Boolean);
    const bound = where.measure?.value && where.value.value !== "" ? Number(where.value.value) : null;
    const names = new Set();
    for (const item of items()) {
      const text = `${item.dataset.name} ${item.dataset.words}`.normalize("NFKC").toLowerCase();
      let wanted = words.every((word) => text.includes(word));
      if (wanted && bound !== null) {
        const value = valueOf(item, where.measure.value);
        wanted = value !== null && (where.relation.value === "ge" ? value >= bound : value <= bound);
      }
      item.hidden = !wanted;
      if (wanted) names.add(item.dataset.name);
    }
    if (playing && playing.closest("article").hidden) pause();
    const all = new Set(items().map((item) => item.dataset.name)).size;
    count.textContent = names.size === all ? `${all} utterance${all === 1 ? "" : "s"}` : `${names.size} of ${all} utterances`;
  }
  const form = $(".filter");
  form?.addEventListener("input", filter);
  form?.addEventListener("submit", (event) => event.preventDefault());
  form?.addEventListener("reset", () => setTimeout(() => { filter(); sort?.dispatchEvent(new Event("change")); }));

  for (const box of $$(".columns input")) {
    box.addEventListener("change", () => {
      for (const cell of $$("#scores [data-measure]")) {
        if (cell.dataset.measure === box.value) cell.classList.toggle("off", !box.checked);
      }
    });
  }

  // --- keyboard ---------------------------------------------------------------------------------------------------
  const help = $("#help");
  $("#help-open").addEventListener("click", () => help.showModal());
  // single keys can be in the way of those who steer by voice, so they can be switched off
  const keys = $("#keys");
  keys.checked = remembered("keys") !== "off";
  keys.addEventListener("change", () => remember("keys", keys.checked ? "on" : "off"));

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open || !keys.checked) return;
    const focused = event.target;
    if (focused.matches("input:not([type=range]):not([type=checkbox]), select, textarea")) return;
    const key = event.key;
    const done = () => event.preventDefault();
    if (key === "?") { done(); help.showModal(); return; }
    if (key === "/") { if (find) { done(); find.focus(); } return; }
    if (key === "j" || key === "J") { done(); go(1); return; }
    if (key === "k" || key === "K") { done(); go(-1); return; }
    const article = current && !current.hidden ? current : articles()[0];
    if (!article) return;
    if (key === " ") {
      if (focused.matches("button, a, summary, input[type=checkbox]")) return; // theirs
      done();
      toggle(chosen(article));
    } else if (key === "ArrowLeft" || key === "ArrowRight") {
      if (focused.matches("input[type=range], .scroll")) return; // they scroll and seek
      done();
      const all = takes(article);
      const at = all.indexOf(chosen(article)) + (key === "ArrowRight" ? 1 : -1);
      switchTo(all[(at + all.length) % all.length]);
    } else if (key === "0") {
      done();
      if (playing) play(chosen(article), 0); else { choose(chosen(article)); place(chosen(article), 0); }
    } else if (key.length === 1) {
      const take = takes(article).find((candidate) => candidate.dataset.letter === key.toUpperCase());
      if (take && !event.shiftKey) { done(); switchTo(take); }
    }
  });

  addEventListener("hashchange", () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target?.matches("article")) { choose(chosen(target)); }
  });
})();
