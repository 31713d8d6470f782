/** Audio worklet: passes on the sound of the first input, and the levels of both inputs on one clock. */
const BLOCKS = 8; // of 128 samples, about 20 ms
const STEP = 4; // blocks per level, about 10 ms

class Ears extends AudioWorkletProcessor {
  constructor() {
    super();
    this.reset();
  }

  reset() {
    this.pcm = new Int16Array(128 * BLOCKS);
    Object.assign(this, { block: 0, sums: [0, 0], levels: [[], []] });
  }

  process(inputs) {
    const sounds = inputs.map(mixed);
    for (let at = 0; at < 128; at += 1) {
      const sample = sounds[0]?.[at] ?? 0;
      this.pcm[128 * this.block + at] = Math.max(-1, Math.min(1, sample)) * 32767;
    }
    sounds.forEach((sound, input) => sound?.forEach((sample) => (this.sums[input] += sample * sample)));
    this.block += 1;
    if (this.block % STEP === 0) {
      this.levels.forEach((levels, input) => levels.push(Math.sqrt(this.sums[input] / (128 * STEP))));
      this.sums = [0, 0];
    }
    if (this.block === BLOCKS) {
      this.port.postMessage({ pcm: this.pcm, levels: this.levels }, [this.pcm.buffer]);
      this.reset();
    }
    return true;
  }
}

/** Mean of the channels of an input; undefined without a sound. */
function mixed(channels) {
  if (channels.length < 2) return channels[0];
  return channels[0].map((sample, at) => channels.reduce((sum, channel) => sum + channel[at], 0) / channels.length);
}

registerProcessor("ears", Ears);
