import { $, $$, ask, attempt, hear, isCommand, status } from "/static/common.js";

const listener = (() => { // the same one after a reload, so that the test goes on
  const fresh = crypto.getRandomValues(new Uint32Array(2)).reduce((text, number) => text + number.toString(36), "");
  try {
    const known = localStorage.getItem("aasvc-listener") ?? fresh;
    localStorage.setItem("aasvc-listener", known);
    return known;
  } catch {
    return fresh;
  }
})();
const choices = $$(".choice"), players = $$(".hear");
const audios = { first: $("audio.first"), second: $("audio.second") };
let state = { count: 0, answered: [] };
let current = 0;
let began = 0;
let heard = new Set();

function show() {
  $("#done").max = state.count;
  $("#done").value = state.answered.length;
  $("#count").textContent = `${state.answered.length} of ${state.count} answered`;
  const done = new Set(state.answered), left = [...Array(state.count).keys()].filter((number) => !done.has(number));
  $("#over").hidden = $("#trial").hidden = false;
  $("#over").hidden = left.length > 0;
  $("#trial").hidden = !left.length;
  if (!left.length) { status("That was all. Thank you."); return; }
  current = left[0];
  began = performance.now();
  heard = new Set();
  for (const button of players) {
    const audio = audios[button.dataset.side];
    audio.src = `/listen/${listener}/${current}/${button.dataset.side}`;
    button.setAttribute("aria-pressed", "false");
  }
  enable();
}

// what has not been heard to its end cannot be judged
function enable() {
  const ready = heard.size === players.length;
  for (const choice of choices) choice.disabled = !ready;
  const missing = players.filter((each) => !heard.has(each.dataset.side)).map((each) => $("kbd", each).textContent);
  const which = players.length > 1 ? `to ${missing.join(" and ")} ` : "";
  $("#hint").textContent = ready ? "Answer; you can listen again." : `Listen ${which}to the end before you answer.`;
}

async function play(button) {
  for (const each of players) if (each !== button) audios[each.dataset.side].pause();
  const audio = audios[button.dataset.side];
  audio.currentTime = 0;
  await hear(audio);
}

async function answer(choice) {
  for (const audio of Object.values(audios)) audio.pause();
  const body = JSON.stringify({ answer: choice.value, seconds: (performance.now() - began) / 1000 });
  state.answered = (await (await ask(`/listen/${listener}/${current}`, { method: "POST", body })).json()).answered;
  status(`Answer ${state.answered.length} is kept.`);
  show();
}

for (const button of players) {
  const audio = audios[button.dataset.side];
  button.addEventListener("click", () => attempt(() => play(button)));
  audio.addEventListener("ended", () => { heard.add(button.dataset.side); enable(); });
  for (const name of ["play", "pause", "ended"]) {
    audio.addEventListener(name, () => button.setAttribute("aria-pressed", String(!audio.paused && !audio.ended)));
  }
}
for (const choice of choices) choice.addEventListener("click", () => attempt(() => answer(choice)));
document.addEventListener("keydown", (event) => {
  if (!isCommand(event) || $("#trial").hidden) return;
  const button = players[["a", "b"].indexOf(event.key.toLowerCase())] ?? choices[Number(event.key) - 1];
  if (button && !button.disabled) { event.preventDefault(); button.click(); }
});

attempt(async () => {
  state = await (await ask(`/listen/${listener}`)).json();
  show();
});
