import { $, $$, Players, ask, attempt as trying, idle, isCommand, problem, status } from "/static/common.js";
import { Microphone } from "/static/microphone.js";

const players = new Players($$(".take"));
const takes = { source: $("#source"), conversion: $("#conversion"), target: $("#target") };
const microphone = new Microphone((level) => { $("#level").value = Math.max(-60, level); });
const voices = new Map();
let source = null; // the recording that is converted, a Blob
let job = 0; // counts conversions, so that an old result does not replace a newer one
let converting = false; // the newest of them

const attempt = (work) => trying(work, () => (microphone.isRecording ? "Recording …" : converting ? "Converting …" : idle));

// --- voices and their examples --------------------------------------------------------------------------------------
async function loadVoices() {
  const { models, default: first } = await (await ask("/v1/models")).json();
  for (const voice of models) voices.set(voice.name, voice);
  if (first && !voices.has(first)) voices.set(first, { name: first, about: "" });
  $("#voice").replaceChildren(...[...voices.keys()].map((name) => new Option(name, name, name === first, name === first)));
  await showVoice();
}

async function showVoice() {
  const name = $("#voice").value;
  $("#about").textContent = voices.get(name)?.about ?? "";
  const { examples } = await (await ask(`/examples?model=${encodeURIComponent(name)}`)).json();
  const options = examples.map((each, i) => new Option(each.text ? `${each.name}: ${each.text}` : each.name, String(i)));
  $("#example").replaceChildren(new Option("choose", ""), ...options);
  $("#example-label").hidden = !examples.length;
}

$("#voice").addEventListener("change", () => attempt(async () => {
  await showVoice();
  if (source) await convert();
}));

$("#example").addEventListener("change", () => attempt(async () => {
  const number = $("#example").value, model = encodeURIComponent($("#voice").value);
  if (number === "") return;
  const [own, target] = await Promise.all(
    ["source", "target"].map(async (side) => (await ask(`/examples/${number}/${side}?model=${model}`)).blob()));
  await take("#example", own, target);
}));

// --- conversion -----------------------------------------------------------------------------------------------------
/** A new recording, from one of the controls, with the target's where there is one. */
async function take(control, recording, target = null, endOfSpeech = performance.now()) {
  if (microphone.isRecording) endRecording();
  for (const other of ["#file", "#example"]) if (other !== control) $(other).value = "";
  source = recording;
  players.load(takes.source, recording);
  players.load(takes.target, target);
  await convert(endOfSpeech);
  if (target) await players.draw(takes.target, target);
}

async function convert(endOfSpeech = performance.now()) {
  const own = ++job, recording = source;
  status("Converting …");
  players.load(takes.conversion, null);
  $("#download").hidden = $("#warnings").hidden = true;
  converting = true;
  let response, result;
  try {
    response = await ask(`/v1/convert?${choices()}`, { method: "POST", body: recording, headers: { Accept: "audio/wav" } });
    result = await response.blob();
  } catch (error) {
    if (own === job) throw error;
  } finally {
    if (own === job) converting = false;
  }
  if (own !== job) return;
  players.load(takes.conversion, result);
  $("#download").hidden = false;
  $("#result").hidden = false;
  $("#download").href = $("audio", takes.conversion).src;
  const warnings = decodeURIComponent(response.headers.get("Aasvc-Warnings") ?? "");
  $("#warnings").textContent = warnings;
  $("#warnings").hidden = !warnings;
  const heard = new Promise((resolve) => $("audio", takes.conversion).addEventListener("playing", resolve, { once: true }));
  const plays = await players.play(takes.conversion).then(() => true, (error) => problem(error.message));
  if (plays) await Promise.race([heard, new Promise((resolve) => setTimeout(resolve, 2000))]);
  const seconds = (performance.now() - endOfSpeech) / 1000;
  $("#status").dataset.seconds = seconds;
  status(plays ? `First sound after ${seconds.toFixed(2)} s.` : "Converted.");
  await Promise.all([players.draw(takes.source, recording), players.draw(takes.conversion, result)]);
}

function choices() {
  const query = new URLSearchParams({ model: $("#voice").value, speed: $("#speed").value, seed: $("#seed").value });
  if ($("#noise-scale").value) query.set("noise_scale", $("#noise-scale").value);
  return query;
}

// --- where recordings come from -------------------------------------------------------------------------------------
async function record() {
  if (microphone.isRecording) {
    const endOfSpeech = performance.now();
    await take("#record", endRecording(), null, endOfSpeech);
    return;
  }
  for (const each of players.takes) $("audio", each).pause();
  await microphone.start();
  showRecording(true);
  status("Recording …");
}

/** What was recorded. */
function endRecording() {
  showRecording(false);
  return microphone.stop();
}

function showRecording(on) {
  $("#record").classList.toggle("recording", on);
  $("#record").setAttribute("aria-pressed", String(on));
  $("#record .word").textContent = on ? "Stop" : "Record";
}

$("#record").addEventListener("click", () => attempt(record));
$("#file").addEventListener("change", () => attempt(async () => { if ($("#file").files[0]) await take("#file", $("#file").files[0]); }));
$("#again").addEventListener("click", () => attempt(async () => {
  if (!source) throw new Error("nothing to convert yet; record or choose a recording first");
  await convert();
}));
$("#rate").addEventListener("change", () => { players.rate = Number($("#rate").value); });
$("#choices").addEventListener("submit", (event) => event.preventDefault());

for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("#drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) attempt(() => take("#drop", event.dataTransfer.files[0]));
  });
}
document.addEventListener("keydown", (event) => {
  if (isCommand(event) && event.key.toLowerCase() === "r") { event.preventDefault(); attempt(record); }
});

attempt(loadVoices);
