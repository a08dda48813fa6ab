// The microphone as it is: one channel, unprocessed, as the WAV that the server reads.

const PLAIN = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
const WARM_UP_SECONDS = 0.05; // the first samples of some drivers are a click

export class Microphone {
  /** @param onLevel told the level of each block in dB of full scale */
  constructor(onLevel = () => {}) {
    this.onLevel = onLevel;
    this.context = null;
    this.blocks = null;
    this.opening = null;
  }

  get isRecording() { return this.blocks !== null; }

  /** Ask for the microphone, once, however often it is wanted before it is there. */
  async open() {
    this.opening ??= this.connect();
    try {
      await this.opening;
    } catch (error) {
      this.opening = null;
      throw error;
    }
  }

  async connect() {
    if (!navigator.mediaDevices) {
      throw new Error("the browser gives this page no microphone: it has to come from this machine, or through HTTPS");
    }
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: PLAIN });
    } catch (error) {
      if (error.name === "NotFoundError") throw new Error("no microphone is connected");
      if (error.name === "NotAllowedError") throw new Error("the browser keeps the microphone from this page; allow it beside the address, then try again");
      throw new Error(`no microphone: ${error.message || error.name}`);
    }
    const context = new AudioContext();
    await context.audioWorklet.addModule("/static/capture.js");
    const node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0, channelCount: 1 });
    node.port.onmessage = ({ data }) => this.take(data);
    context.createMediaStreamSource(stream).connect(node);
    await context.resume();
    this.context = context;
  }

  take(block) {
    this.blocks?.push(block);
    let power = 0;
    for (const sample of block) power += sample * sample;
    this.onLevel(10 * Math.log10(power / block.length + 1e-12));
  }

  async start() {
    await this.open();
    this.blocks = [];
  }

  /** What was said since start, as WAV. */
  stop() {
    const blocks = this.blocks ?? [], rate = this.context.sampleRate;
    this.blocks = null;
    if (!blocks.length) throw new Error("nothing was recorded; wait a moment before you stop");
    const samples = new Float32Array(blocks.reduce((n, block) => n + block.length, 0));
    let place = 0;
    for (const block of blocks) { samples.set(block, place); place += block.length; }
    return wav(samples.subarray(Math.round(WARM_UP_SECONDS * rate)), rate);
  }
}

/** Samples as WAV of 16 bits. */
export function wav(samples, rate) {
  const data = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (place, letters) => [...letters].forEach((letter, i) => data.setUint8(place + i, letter.charCodeAt(0)));
  text(0, "RIFF"); data.setUint32(4, 36 + 2 * samples.length, true); text(8, "WAVEfmt ");
  data.setUint32(16, 16, true); data.setUint16(20, 1, true); data.setUint16(22, 1, true);
  data.setUint32(24, rate, true); data.setUint32(28, 2 * rate, true); data.setUint16(32, 2, true); data.setUint16(34, 16, true);
  text(36, "data"); data.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) => data.setInt16(44 + 2 * i, Math.round(Math.max(-1, Math.min(1, sample)) * 32767), true));
  return new Blob([data], { type: "audio/wav" });
}
