import { $, $$, Players, ask, isCommand, problem } from "/static/common.js";
import { Microphone } from "/static/microphone.js";

const players = new Players($$(".take"));
const takes = { source: $("#source"), conversion: $("#conversion"), target: $("#target") };
const microphone = new Microphone((level) => { $("#level").value = Math.max(-60, level); });
const voices = new Map();
let source = null; // the recording that is converted, a Blob
let job = 0; // counts conversions, so that an old result does not replace a newer one

const status = (text) => { $("#status").textContent = text; };

async function attempt(work) {
  problem("");
  try {
    await work();
  } catch (error) {
    status("");
    problem(error.message);
  }
}

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
  await take(own, target);
}));

// --- conversion -----------------------------------------------------------------------------------------------------
/** A new recording, with the target's where there is one. */
async function take(recording, target = null) {
  source = recording;
  players.load(takes.source, recording);
  players.load(takes.target, target);
  await convert();
  if (target) await players.draw(takes.target, target);
}

async function convert(endOfSpeech = performance.now()) {
  const own = ++job, recording = source;
  const query = new URLSearchParams({ model: $("#voice").value, speed: $("#speed").value, seed: $("#seed").value });
  if ($("#noise-scale").value) query.set("noise_scale", $("#noise-scale").value);
  status("Converting …");
  players.load(takes.conversion, null);
  const response = await ask(`/v1/convert?${query}`, { method: "POST", body: recording, headers: { Accept: "audio/wav" } });
  const result = await response.blob();
  if (own !== job) return;
  players.load(takes.conversion, result);
  $("#result").hidden = false;
  $("#download").href = $("audio", takes.conversion).src;
  const warnings = decodeURIComponent(response.headers.get("Aasvc-Warnings") ?? "");
  $("#warnings").textContent = warnings;
  $("#warnings").hidden = !warnings;
  const heard = new Promise((resolve) => $("audio", takes.conversion).addEventListener("playing", resolve, { once: true }));
  await players.play(takes.conversion);
  await Promise.race([heard, new Promise((resolve) => setTimeout(resolve, 2000))]);
  const seconds = (performance.now() - endOfSpeech) / 1000;
  $("#status").dataset.seconds = seconds;
  status(`First sound after ${seconds.toFixed(2)} s.`);
  await Promise.all([players.draw(takes.source, recording), players.draw(takes.conversion, result)]);
}

// --- where recordings come from -------------------------------------------------------------------------------------
async function record() {
  const button = $("#record");
  if (microphone.isRecording) {
    const endOfSpeech = performance.now();
    button.classList.remove("recording");
    button.setAttribute("aria-pressed", "false");
    $(".word", button).textContent = "Record";
    source = microphone.stop();
    players.load(takes.source, source);
    players.load(takes.target, null);
    await convert(endOfSpeech);
    return;
  }
  for (const each of players.takes) $("audio", each).pause();
  await microphone.start();
  button.classList.add("recording");
  button.setAttribute("aria-pressed", "true");
  $(".word", button).textContent = "Stop";
  status("Recording …");
}

$("#record").addEventListener("click", () => attempt(record));
$("#file").addEventListener("change", () => attempt(async () => { if ($("#file").files[0]) await take($("#file").files[0]); }));
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
    if (name === "drop" && event.dataTransfer.files[0]) attempt(() => take(event.dataTransfer.files[0]));
  });
}
document.addEventListener("keydown", (event) => {
  if (isCommand(event) && event.key.toLowerCase() === "r") { event.preventDefault(); attempt(record); }
});

attempt(loadVoices);
