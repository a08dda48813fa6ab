import { $, ask, attempt, hear, isCommand, problem, status } from "/static/common.js";
import { Microphone } from "/static/microphone.js";

const microphone = new Microphone((level) => { $("#level").value = Math.max(-60, level); });
const player = $("#player");
let sentences = [];
let current = 0;
let refused = null; // the last reading, if it has faults
let busy = false; // a reading begins, or is looked at

function showFaults(faults) {
  $("#faults").replaceChildren(...faults.map((fault) => Object.assign(document.createElement("li"), { textContent: fault })));
  $("#faults").hidden = $("#keep").hidden = !faults.length;
}

function show() {
  const sentence = sentences[current], done = sentences.filter((each) => each.done).length;
  $("#done").value = done;
  $("#count").textContent = `${done} of ${sentences.length} recorded`;
  $("#name").textContent = `${current + 1}: ${sentence.name}${sentence.done ? " (recorded)" : ""}`;
  $("#sentence").textContent = sentence.text || "Listen, and say the same.";
  showButtons();
}

function showButtons() {
  const sentence = sentences[current], on = microphone.isRecording; // then the reading belongs to the sentence that is shown
  $("#target").disabled = on || !sentence.target;
  $("#own").disabled = on || !sentence.done;
  $("#before").disabled = on || current === 0;
  $("#next").disabled = on || current === sentences.length - 1;
  $("#record").classList.toggle("recording", on);
  $("#record").setAttribute("aria-pressed", String(on));
  $("#record .word").textContent = on ? "Stop" : "Record";
}

/** Let a recording be heard; who waits for it may go on at once. */
function play(path) {
  player.src = path;
  hear(player).catch((error) => problem(error.message));
}

function go(number) {
  current = number;
  refused = null;
  showFaults([]);
  show();
  if ($("#first").checked && sentences[current].target) play(`/record/${current}/target`);
}

async function send(reading, anyway = false) {
  const began = performance.now();
  const query = anyway ? "?anyway=1" : "";
  const { kept, faults, seconds } = await (await ask(`/record/${current}${query}`, { method: "POST", body: reading })).json();
  if (!kept) {
    refused = reading;
    showFaults(faults);
    status("Not kept. Read it again.");
    return;
  }
  sentences[current].done = true;
  status(`${sentences[current].name} is kept, ${seconds.toFixed(1)} s.`);
  $("#status").dataset.checked = (performance.now() - began) / 1000;
  const left = sentences.findIndex((each, number) => number > current && !each.done);
  const missing = left < 0 ? sentences.findIndex((each) => !each.done) : left;
  if (missing >= 0) { go(missing); return; }
  showFaults([]);
  show();
  status("All sentences are recorded.");
}

async function record() {
  let reading;
  if (microphone.isRecording) {
    try {
      reading = microphone.stop();
    } finally {
      showButtons();
    }
    status("Checking …");
    await send(reading);
    return;
  }
  player.pause();
  showFaults([]);
  await microphone.start();
  showButtons();
  status("Recording …");
}

const commands = {
  record, target: () => play(`/record/${current}/target`), own: () => play(`/record/${current}/own?${Date.now()}`),
  keep: () => send(refused, true), before: () => go(current - 1), next: () => go(current + 1),
};

async function command(id) {
  if (busy || !sentences.length || $(`#${id}`).disabled || $(`#${id}`).hidden) return;
  busy = true;
  await attempt(commands[id], () => (microphone.isRecording ? "Recording …" : "Nothing was kept."));
  busy = false;
}

const keys = { " ": "record", t: "target", l: "own", k: "keep", ArrowLeft: "before", ArrowRight: "next" };
for (const id of Object.keys(commands)) $(`#${id}`).addEventListener("click", () => command(id));
document.addEventListener("keydown", (event) => {
  const id = keys[event.key] ?? keys[event.key.toLowerCase()];
  if (!id || !isCommand(event)) return;
  event.preventDefault();
  command(id);
});

attempt(async () => {
  sentences = (await (await ask("/record/state")).json()).sentences;
  const missing = sentences.findIndex((each) => !each.done);
  current = Math.max(0, missing);
  show();
  if (missing < 0) status("All sentences are recorded.");
});
