/** The waveform of the audio input with its pauses, and a player for it. */
import { get } from "./api.js";
import { clock, explainIfSlow, onLanguage, showError, t } from "./texts.js";

const POINTS = 400;

export class Wave {
  constructor(root = document.getElementById("audio")) {
    this.root = root;
    this.root.append(document.getElementById("player").content.cloneNode(true));
    const find = (selector) => this.root.querySelector(selector);
    [this.viewer, this.canvas, this.words] = [find(".viewer"), find("canvas"), find(".found")];
    [this.button, this.slider] = [find(".play"), find(".wave input")];
    this.sound = new Audio();
    this.sound.preload = "metadata";
    this.sound.onerror = () => (this.button.hidden = Boolean(this.file));
    this.sound.onplay = this.sound.onpause = () => this.write();
    this.button.onclick = () => (this.sound.paused ? this.sound.play() : this.sound.pause());
    this.slider.oninput = () => {
      this.sound.currentTime = Number(this.slider.value);
      this.draw();
    };
    this.sound.ontimeupdate = () => this.draw();
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    onLanguage(() => this.write());
  }

  /** Show a stored file; null shows nothing. */
  async show(file) {
    this.loading?.abort();
    const loading = (this.loading = new AbortController());
    Object.assign(this, { file, envelope: null });
    this.sound.pause();
    this.viewer.hidden = !file;
    if (!file) return this.sound.removeAttribute("src");
    this.sound.src = `v1/files/${file.id}/content`;
    this.button.hidden = false;
    this.slider.value = 0;
    this.write();
    const ended = explainIfSlow(this.words);
    try {
      this.envelope = await get(`files/${file.id}/envelope?points=${POINTS}`, { signal: loading.signal });
      this.slider.max = this.envelope.seconds;
      this.write();
    } catch (error) {
      if (error.name === "AbortError") return;
      this.words.textContent = "";
      showError(this.root, error);
    } finally {
      ended();
    }
  }

  get seconds() {
    return this.envelope?.seconds ?? this.file?.media.seconds ?? 0;
  }

  /** The loudest moment before a time, in seconds: there the mouth is open. */
  loudest(before) {
    if (!this.envelope) return 0;
    const { points, seconds } = this.envelope;
    const end = Math.max(1, Math.floor((points.length * Math.min(before, seconds)) / seconds));
    const heard = points.slice(0, end);
    return (heard.indexOf(Math.max(...heard)) / points.length) * seconds;
  }

  write() {
    if (!this.file) return;
    this.words.textContent = this.envelope ? t("pauses", this.envelope.pauses.length) : t("listening");
    this.button.setAttribute("aria-label", t(this.sound.paused ? "play" : "pause"));
    this.button.querySelector("use").setAttribute("href", this.sound.paused ? "#i-play" : "#i-pause");
    this.draw();
  }

  draw() {
    const scale = devicePixelRatio;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width) return;
    Object.assign(this.canvas, { width: width * scale, height: height * scale });
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    if (!this.envelope) return;
    const { points, seconds, pauses } = this.envelope;
    const style = getComputedStyle(this.canvas);
    const colour = (name) => style.getPropertyValue(name);
    if (document.activeElement !== this.slider || !this.sound.paused) this.slider.value = this.sound.currentTime;
    const at = Number(this.slider.value);
    this.slider.setAttribute("aria-valuetext", clock(at, true));

    pen.fillStyle = colour("--pause");
    for (const [from, to] of pauses) {
      pen.fillRect((width * from) / seconds, 0, (width * (to - from)) / seconds, height);
    }
    const bars = Math.floor(width / 4);
    const loudest = Math.max(...points, 1e-6);
    for (let bar = 0; bar < bars; bar++) {
      const first = Math.floor((bar * points.length) / bars);
      const end = Math.max(first + 1, Math.floor(((bar + 1) * points.length) / bars));
      const tall = Math.max(2, (Math.max(...points.slice(first, end)) / loudest) * (height - 8));
      pen.fillStyle = colour((bar / bars) * seconds < at ? "--accent" : "--bar");
      pen.beginPath();
      pen.roundRect(bar * 4 + 0.5, (height - tall) / 2, 3, tall, 1.5);
      pen.fill();
    }
    pen.fillStyle = colour("--accent");
    if (at > 0) pen.fillRect((width * at) / seconds - 0.5, 0, 1.5, height);
  }
}
