/** The result beside or over the original, both at the same moment. */
import { clock, onLanguage, t } from "./texts.js";

const DRIFT = 0.25; // seconds beyond which the original seeks; below it, it plays a little faster or slower

/** Return the time in the original that a time of the dubbed video shows. */
export function originalTime(time, { seconds, extend = "loop", start = 0, fps = 25 }) {
  const at = start + time;
  if (!seconds || at < seconds) return at;
  if (extend === "pingpong") {
    const phase = at % (2 * seconds);
    return phase < seconds ? phase : 2 * seconds - phase;
  }
  return extend === "loop" || extend === "silence" ? at % seconds : Math.max(0, seconds - 0.5 / fps);
}

export class Compare {
  constructor(root) {
    this.root = root;
    const find = (selector) => root.querySelector(selector);
    this.layers = { result: find(".layer.result"), original: find(".layer.original") };
    this.media = { result: null, original: null };
    [this.button, this.seek, this.clock] = [find(".play"), find(".seek"), find(".clock")];
    [this.screen, this.border] = [find(".screen"), find(".wipe")];
    this.border.oninput = () => this.writeBorder();
    this.writeBorder();
    this.button.onclick = () => this.toggle();
    this.screen.onclick = (event) => event.target !== this.border && this.toggle();
    this.seek.oninput = () => this.seekFrame();
    root.addEventListener("change", ({ target }) => {
      if (target.name === "mode") this.root.dataset.mode = target.value;
      if (target.name === "sound") this.writeSound();
    });
    onLanguage(() => this.write());
  }

  clear() {
    for (const medium of Object.values(this.media)) {
      if (medium?.tagName === "VIDEO") {
        medium.pause();
        medium.removeAttribute("src");
        medium.load();
      }
    }
    this.media = { result: null, original: null };
    this.layers.result.replaceChildren();
    this.layers.original.replaceChildren();
    this.root.hidden = true;
  }

  /** Show `result` and `original`, each {url, kind: image or video, hasAudio}; `times` are for originalTime. */
  show(result, original, times = {}) {
    this.clear();
    this.times = times;
    this.add("result", result);
    const isVideo = result.kind === "video";
    this.root.hidden = false;
    this.root.querySelector(".unplayable").hidden = true;
    this.root.querySelector(".transport").hidden = !isVideo;
    this.root.querySelector(".sound").hidden = !isVideo;
    this.hasOriginal(Boolean(original));
    if (original) this.add("original", original);
    const own = this.root.querySelector("[name=sound][value=original]");
    own.disabled = !original?.hasAudio;
    if (own.disabled && own.checked) this.root.querySelector("[name=sound][value=result]").checked = true;
    this.seek.value = 0;
    if (isVideo) this.drive();
    this.write();
    this.writeSound();
  }

  add(name, { url, kind, size }) {
    const isVideo = kind === "video";
    const medium = document.createElement(isVideo ? "video" : "img");
    if (isVideo) Object.assign(medium, { preload: "auto", playsInline: true, loop: false });
    else medium.alt = "";
    const fit = () => {
      const [width, height] = size ?? [medium.videoWidth || medium.naturalWidth, medium.videoHeight || medium.naturalHeight];
      if (name === "result" && width) this.screen.style.setProperty("--ratio", width / height);
      if (name === "original") this.follow();
    };
    medium.addEventListener(isVideo ? "loadedmetadata" : "load", fit);
    medium.addEventListener("error", () => {
      if (this.media[name] !== medium) return;
      if (name === "original") this.hasOriginal(false);
      else this.root.querySelector(".unplayable").hidden = false;
    });
    medium.src = url;
    if (isVideo && name === "original") medium.addEventListener("seeked", () => this.follow());
    this.media[name] = medium;
    this.layers[name].replaceChildren(medium);
  }

  /** Without an original that the browser can show, only the result is shown. */
  hasOriginal(has) {
    this.root.classList.toggle("alone", !has);
    this.root.querySelector(".no-original").hidden = has;
    if (!has) this.media.original = null;
  }

  /** Let the result drive the controls and the original. */
  drive() {
    const { result } = this.media;
    const show = () => this.media.result === result && (this.follow(), this.write());
    for (const name of ["loadedmetadata", "play", "pause", "timeupdate", "seeking", "seeked", "ended"]) {
      result.addEventListener(name, show);
    }
    for (const name of ["waiting", "pause"]) result.addEventListener(name, () => this.pauseOriginal());
    if (!result.requestVideoFrameCallback) return;
    const eachFrame = () => {
      if (this.media.result !== result) return;
      this.follow();
      result.requestVideoFrameCallback(eachFrame);
    };
    result.requestVideoFrameCallback(eachFrame);
  }

  pauseOriginal() {
    if (this.media.original?.tagName === "VIDEO") this.media.original.pause();
  }

  /** Bring the original to the moment of the result. */
  follow() {
    const { result, original } = this.media;
    if (original?.tagName !== "VIDEO" || result?.tagName !== "VIDEO" || original.readyState < 1) return;
    const { fps = 25, seconds = original.duration } = this.times;
    const isPlaying = !result.paused && !result.ended && result.readyState > 2;
    const shown = isPlaying ? result.currentTime : (Math.floor(result.currentTime * fps + 1e-3) + 0.5) / fps;
    const wanted = originalTime(shown, { ...this.times, seconds });
    const drift = wanted - original.currentTime;
    if (!isPlaying) {
      original.pause();
      original.playbackRate = 1;
      if (Math.abs(drift) > 0.001 && !original.seeking) original.currentTime = wanted;
      return;
    }
    if (Math.abs(drift) > DRIFT && !original.seeking) original.currentTime = wanted;
    original.playbackRate = Math.abs(drift) < 0.01 ? 1 : Math.min(1.5, Math.max(0.5, 1 + 2 * drift));
    if (original.paused && !original.ended) original.play().catch(() => {}); // refused: the result is still shown
  }

  toggle() {
    const { result } = this.media;
    if (result?.tagName !== "VIDEO") return;
    if (result.paused || result.ended) result.play();
    else result.pause();
  }

  /** Seek to the middle of a frame: at its edge, the original might show the frame before. */
  seekFrame() {
    const { fps = 25 } = this.times;
    this.media.result.currentTime = (Math.round(Number(this.seek.value) * fps) + 0.5) / fps;
  }

  write() {
    const { result } = this.media;
    if (result?.tagName !== "VIDEO") return;
    const isPaused = result.paused || result.ended;
    this.button.setAttribute("aria-label", t(isPaused ? "play" : "pause"));
    this.button.querySelector("use").setAttribute("href", isPaused ? "#i-play" : "#i-pause");
    const length = Number.isFinite(result.duration) ? result.duration : 0;
    this.seek.max = length;
    this.seek.step = 1 / (this.times.fps ?? 25);
    this.seek.value = result.currentTime;
    this.clock.textContent = `${clock(result.currentTime, true)} / ${clock(length, true)}`;
    this.seek.setAttribute("aria-valuetext", this.clock.textContent);
  }

  writeBorder() {
    this.screen.style.setProperty("--border", `${this.border.value}%`);
    this.border.setAttribute("aria-valuetext", `${this.border.value} %`);
  }

  writeSound() {
    const heard = this.root.querySelector("[name=sound]:checked").value;
    for (const name of ["result", "original"]) if (this.media[name]) this.media[name].muted = heard !== name;
  }
}
