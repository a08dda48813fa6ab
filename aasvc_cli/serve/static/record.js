import { $, ask, isCommand, problem } from "/static/common.js";
import { Microphone } from "/static/microphone.js";

const microphone = new Microphone((level) => { $("#level").value = Math.max(-60, level); });
const player = $("#player");
let sentences = [];
let current = 0;
let refused = null; // the last reading, if it has faults

const status = (text) => { $("#status").textContent = text; };

async function attempt(work) {
  problem("");
  try {
    await work();
  } catch (error) {
    problem(error.message);
  }
}

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
  $("#target").disabled = !sentence.target;
  $("#own").disabled = !sentence.done;
  $("#before").disabled = current === 0;
  $("#next").disabled = current === sentences.length - 1;
}

async function play(path) {
  player.src = path;
  await player.play().catch((error) => { if (error.name !== "AbortError") throw error; });
}

async function go(number) {
  current = number;
  refused = null;
  showFaults([]);
  show();
  if ($("#first").checked && sentences[current].target) await play(`/record/${current}/target`);
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
  if (missing >= 0) { await go(missing); return; }
  showFaults([]);
  show();
  status("All sentences are recorded.");
}

async function record() {
  const button = $("#record");
  const on = !microphone.isRecording;
  if (on) {
    player.pause();
    showFaults([]);
    await microphone.start();
    status("Recording …");
  }
  button.classList.toggle("recording", on);
  button.setAttribute("aria-pressed", String(on));
  $(".word", button).textContent = on ? "Stop" : "Record";
  if (on) return;
  const reading = microphone.stop();
  status("Checking …");
  await send(reading);
}

const commands = {
  record, target: () => play(`/record/${current}/target`), own: () => play(`/record/${current}/own?${Date.now()}`),
  keep: () => send(refused, true), before: () => go(current - 1), next: () => go(current + 1),
};
const keys = { " ": "record", t: "target", l: "own", k: "keep", ArrowLeft: "before", ArrowRight: "next" };
for (const [id, command] of Object.entries(commands)) $(`#${id}`).addEventListener("click", () => attempt(command));
document.addEventListener("keydown", (event) => {
  const id = keys[event.key] ?? keys[event.key.toLowerCase()];
  if (!id || !isCommand(event) || $(`#${id}`).disabled || $(`#${id}`).hidden) return;
  event.preventDefault();
  attempt(commands[id]);
});

attempt(async () => {
  sentences = (await (await ask("/record/state")).json()).sentences;
  const missing = sentences.findIndex((each) => !each.done);
  current = Math.max(0, missing);
  show();
  if (missing < 0) status("All sentences are recorded.");
});
