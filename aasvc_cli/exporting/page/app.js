// Records or reads a recording, has the worker convert it piece by piece, and plays both.

const LONGEST_PIECE = 12; // seconds; memory grows with the square
const byId = (id) => document.getElementById(id);
const say = (text) => { byId("status").textContent = text; };

say("Loading the voice"); // what the page says until then is for who opens it as a file, where no script may run
const facts = await fetch("model.json").then((answer) => answer.json()).catch((error) => {
  say(`The files of this page do not arrive: ${error.message}`);
  throw error;
});
byId("about").textContent = [facts.name, facts.converts, facts.licence && `licence: ${facts.licence}`].filter(Boolean).join(" · ");
byId("runtime").textContent = facts.runtime;

// Made from a blob, a worker obeys the policy of this page, and so connects to nothing else either.
const start = `import ${JSON.stringify(new URL("worker.js", import.meta.url).href)};`;
const worker = new Worker(URL.createObjectURL(new Blob([start], { type: "text/javascript" })), { type: "module" });

function answer() {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data));
    worker.onerror = (event) => reject(new Error(event.message || "The voice cannot be loaded."));
  });
}

async function convert(samples, speed) {
  const waves = [];
  const pieces = cut(samples, facts.input_rate);
  for (const [index, piece] of pieces.entries()) {
    if (pieces.length > 1) say(`Converting piece ${index + 1} of ${pieces.length}`);
    const answered = answer();
    worker.postMessage({ samples: piece, speed });
    waves.push((await answered).wave);
  }
  return joined(waves);
}

// Pieces of a long recording, each ended at the quietest tenth of a second in its second half.
function cut(samples, rate) {
  const pieces = [], step = Math.round(rate / 10);
  let first = 0;
  while (samples.length - first > LONGEST_PIECE * rate) {
    let best = Infinity, end = 0;
    for (let place = first + (LONGEST_PIECE / 2) * rate; place < first + LONGEST_PIECE * rate; place += step) {
      const power = samples.subarray(place, place + step).reduce((sum, value) => sum + value * value, 0);
      if (power < best) [best, end] = [power, place + (step >> 1)];
    }
    pieces.push(samples.slice(first, end));
    first = end;
  }
  return [...pieces, samples.slice(first)];
}

function joined(parts) {
  const whole = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let place = 0;
  for (const part of parts) {
    whole.set(part, place);
    place += part.length;
  }
  return whole;
}

// Mono, at the rate of the model.
async function resampled(buffer) {
  const length = Math.max(1, Math.ceil(buffer.duration * facts.input_rate));
  const context = new OfflineAudioContext(1, length, facts.input_rate);
  const source = new AudioBufferSourceNode(context, { buffer });
  source.connect(context.destination);
  source.start();
  return (await context.startRendering()).getChannelData(0);
}

function wav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (place, letters) => [...letters].forEach((letter, i) => view.setUint8(place + i, letter.charCodeAt(0)));
  text(0, "RIFF"); text(8, "WAVEfmt "); text(36, "data");
  view.setUint32(4, 36 + 2 * samples.length, true);
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, value)) * 32767, true));
  return new Blob([view], { type: "audio/wav" });
}

function play(id, samples, rate) {
  URL.revokeObjectURL(byId(id).src);
  byId(id).src = URL.createObjectURL(wav(samples, rate));
}

async function use(buffer) {
  enable(false);
  try {
    const samples = await resampled(buffer);
    if (samples.length < facts.shortest_seconds * facts.input_rate) {
      throw new Error(`Too short: ${buffer.duration.toFixed(2)} s; speak for ${facts.shortest_seconds.toFixed(1)} s or more.`);
    }
    say("Converting");
    const began = performance.now();
    const wave = await convert(samples, Number(byId("speed").value) || 1);
    const taken = (performance.now() - began) / 1000, seconds = wave.length / facts.output_rate;
    play("source", samples, facts.input_rate);
    play("conversion", wave, facts.output_rate);
    byId("download").href = byId("conversion").src;
    byId("results").hidden = false;
    say(`${seconds.toFixed(1)} s converted in ${taken.toFixed(1)} s, ${(taken / seconds).toFixed(2)} × real time`);
  } catch (error) {
    say(error.message);
  }
  enable(true);
}

function enable(on) {
  byId("record").disabled = byId("file").disabled = !on;
}

let stop = null;

async function record() {
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
  });
  const context = new AudioContext();
  await context.audioWorklet.addModule("recorder.js");
  const node = new AudioWorkletNode(context, "recorder"), blocks = [];
  node.port.onmessage = ({ data }) => blocks.push(data);
  context.createMediaStreamSource(stream).connect(node);
  return async () => {
    stream.getTracks().forEach((track) => track.stop());
    const samples = joined(blocks), buffer = new AudioBuffer({ length: Math.max(1, samples.length), sampleRate: context.sampleRate });
    buffer.copyToChannel(samples, 0);
    await context.close();
    return buffer;
  };
}

byId("record").addEventListener("click", async () => {
  const button = byId("record");
  try {
    if (stop === null) {
      stop = await record();
      [button.textContent, button.ariaPressed] = ["Stop", "true"];
      byId("file").disabled = true;
      say("Speak now");
      return;
    }
    const finish = stop;
    stop = null;
    [button.textContent, button.ariaPressed] = ["Record", "false"];
    await use(await finish());
  } catch (error) {
    say(`The microphone cannot be used: ${error.message}`);
    enable(true);
  }
});

byId("file").addEventListener("change", async ({ target: { files: [file] } }) => {
  if (!file) return;
  try {
    await use(await new OfflineAudioContext(1, 1, facts.input_rate).decodeAudioData(await file.arrayBuffer()));
  } catch {
    say(`${file.name}: is no recording that this browser can read.`);
  }
});

try {
  await answer();
  say("Ready");
  enable(true);
} catch (error) {
  say(error.message);
}
