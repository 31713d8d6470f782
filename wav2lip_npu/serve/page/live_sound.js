/** The sound of a live stream: microphone or file, sent in chunks; and how late it comes back. */
import { Problem } from "./api.js";
import { t } from "./texts.js";

const KEPT_S = 5; // of the levels that are compared
const LONGEST_S = 2; // delay
const ALIKE = 0.6; // correlation from which the two sounds count as the same
const LOUD = 0.003; // deviation of the levels of speech
const QUIET = 0.15; // of the loudest level: no speech

export class LiveSound {
  /** Calls onChunk(Int16Array) about 50 times a second, and onEnd() after the last sound of a file. */
  constructor({ onChunk, onEnd }) {
    Object.assign(this, { onChunk, onEnd, isSending: false, skipsPauses: false });
  }

  /** Ask for the microphone, or decode a file; null is the microphone. Raises a Problem. */
  async open(file) {
    const context = (this.context = new AudioContext({ latencyHint: "interactive" }));
    Object.assign(this, { levels: [[], []], loudest: 0 });
    await Promise.all([context.resume(), context.audioWorklet.addModule("page/ears.js")]);
    this.ears = new AudioWorkletNode(context, "ears", { numberOfInputs: 2 });
    this.ears.port.onmessage = ({ data }) => this.hear(data);
    this.ears.connect(context.destination); // it is silent; browsers run only what leads somewhere
    this.source = new GainNode(context);
    this.source.connect(this.ears, 0, 0);
    if (file) this.recording = await this.decoded(file);
    else {
      this.microphone = await microphone();
      this.microphone.getAudioTracks()[0].onended = () => this.onEnd(new Problem(t("live_mic_lost")));
      context.createMediaStreamSource(this.microphone).connect(this.source);
    }
  }

  get rate() {
    return this.context.sampleRate;
  }

  async decoded(file) {
    try {
      return await this.context.decodeAudioData(await file.arrayBuffer());
    } catch {
      throw new Problem(t("live_no_audio", file.name));
    }
  }

  /** Send from now on: the microphone, or the file from its beginning. */
  start() {
    this.isSending = true;
    if (!this.recording) return;
    this.player = new AudioBufferSourceNode(this.context, { buffer: this.recording });
    this.player.onended = () => {
      this.isSending = false;
      this.player = null;
      this.onEnd(null);
    };
    this.player.connect(this.source);
    this.player.start();
  }

  /** Stop a file. */
  interrupt() {
    this.player?.stop();
  }

  /** Compare with what comes back. */
  listen(stream) {
    this.context.createMediaStreamSource(stream).connect(this.ears, 0, 1);
  }

  /** Play what is sent some seconds later, for a picture without sound. */
  playLater(seconds, isMuted) {
    if (!this.later) {
      [this.later, this.volume] = [new DelayNode(this.context, { maxDelayTime: LONGEST_S }), new GainNode(this.context)];
      this.source.connect(this.later).connect(this.volume).connect(this.context.destination);
    }
    this.later.delayTime.value = Math.min(seconds, LONGEST_S);
    this.volume.gain.value = isMuted ? 0 : 1;
  }

  hear({ pcm, levels }) {
    levels.forEach((some, input) => {
      this.levels[input].push(...some);
      this.levels[input].splice(0, this.levels[input].length - Math.ceil(KEPT_S * this.levelRate));
    });
    const loudest = Math.max(...levels[0]);
    this.loudest = Math.max(loudest, this.loudest * 0.999);
    const isPause = loudest < QUIET * this.loudest;
    if (this.isSending && !(this.skipsPauses && isPause)) this.onChunk(pcm);
  }

  get levelRate() {
    return this.rate / 512;
  }

  /** Seconds from a sound that is sent until the same sound comes back; null if they cannot be compared now. */
  delay() {
    const [sent, back] = this.levels;
    const longest = Math.round(LONGEST_S * this.levelRate);
    const length = sent.length - longest;
    if (length < longest) return null;
    const heard = back.slice(longest);
    const alike = Array.from({ length: longest }, (_, lag) => correlation(sent, longest - lag, heard));
    const enough = Math.max(ALIKE, 0.9 * Math.max(...alike)); // of beeps, each period is alike: the first counts
    const first = alike.findIndex((value, lag) => value >= enough && value >= (alike[lag + 1] ?? 0));
    return first < 0 ? null : first / this.levelRate;
  }

  async close() {
    this.isSending = false;
    this.microphone?.getTracks().forEach((track) => track.stop());
    if (this.player) this.player.onended = null;
    if (this.context?.state !== "closed") await this.context?.close();
    Object.assign(this, { recording: null, player: null, microphone: null, later: null });
  }
}

/** Correlation of levels from an index on with others; 0 if one of them hardly changes. */
function correlation(levels, from, others) {
  const count = others.length;
  let [a, b, aa, bb, ab] = [0, 0, 0, 0, 0];
  for (let at = 0; at < count; at += 1) {
    const [one, other] = [levels[from + at], others[at]];
    a += one;
    b += other;
    aa += one * one;
    bb += other * other;
    ab += one * other;
  }
  const [one, other] = [aa / count - (a / count) ** 2, bb / count - (b / count) ** 2];
  if (Math.min(one, other) < LOUD ** 2) return 0;
  return (ab / count - (a / count) * (b / count)) / Math.sqrt(one * other);
}

async function microphone() {
  if (!navigator.mediaDevices) throw new Problem(t("record_insecure"));
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true, noiseSuppression: true } });
  } catch (error) {
    const texts = { NotAllowedError: "live_mic_refused", NotFoundError: "live_mic_missing", NotReadableError: "live_mic_busy" };
    throw new Problem(t(texts[error.name] ?? "live_mic_busy"));
  }
}
