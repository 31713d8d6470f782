/** One input of a dub: a file that is dropped, chosen or recorded, and uploaded. */
import { Problem, upload } from "./api.js";
import { bytes, clock, fill, onLanguage, showError, t } from "./texts.js";

const RECORDED = {
  face: ["video/mp4", "video/webm;codecs=vp9", "video/webm"],
  audio: ["audio/webm;codecs=opus", "audio/mp4", "audio/webm"],
};
const ACCEPTED = {
  face: "video/*,image/*,.mkv,.mov,.avi,.webm,.heic,.mxf,.ts",
  audio: "audio/*,video/*,.wav,.flac,.mp3,.m4a,.opus,.ogg,.mkv",
};
const ICONS = { face: ["#i-film", "#i-camera"], audio: ["#i-wave", "#i-mic"] };

export class Source {
  /**
   * `kind` is face or audio, `limits` the limits of the service; calls onChange(stored file or null).
   * `suffix` returns what tells its buttons from those of other inputs of this kind.
   */
  constructor(kind, limits, onChange, root = document.getElementById(kind)) {
    Object.assign(this, { kind, limits, onChange, root, file: null, suffix: () => "" });
    this.root.querySelector("h2").after(document.getElementById("source").content.cloneNode(true));
    const uses = this.root.querySelectorAll("use");
    ICONS[kind].forEach((icon, index) => uses[index].setAttribute("href", icon));
    this.input = this.find("input[type=file]");
    this.input.accept = ACCEPTED[kind];
    this.input.onchange = () => this.input.files.length && this.take(this.input.files[0]);
    this.find(".choose").onclick = () => this.input.click();
    this.find(".record").onclick = () => this.record();
    this.find(".stop").onclick = () => this.recorder.stop();
    this.find(".drop-recording").onclick = () => this.reset();
    this.find(".abort").onclick = () => this.reset();
    this.find(".replace").onclick = () => this.reset();
    onLanguage(() => this.write());
    this.write();
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  write() {
    fill(this.root);
    this.find(".ask").textContent = t(`${this.kind}_ask`);
    this.find(".drop > .hint").textContent = t(`${this.kind}_hint`, this.limits);
    this.find(".record span").textContent = t(`${this.kind}_record`);
    this.find(".choose").setAttribute("aria-label", t(`${this.kind}_choose`) + this.suffix());
    this.find(".replace").setAttribute("aria-label", t(`${this.kind}_replace`) + this.suffix());
    this.find(".record").setAttribute("aria-label", t(`${this.kind}_record`) + this.suffix());
    if (this.file) this.find(".about").textContent = this.about();
  }

  /** Show one of: drop, recorder, upload, chosen. The focus stays in this input. */
  show(part) {
    const hadFocus = this.root.contains(document.activeElement);
    for (const name of ["drop", "recorder", "upload", "chosen"]) this.find(`.${name}`).hidden = name !== part;
    if (hadFocus && !document.activeElement.checkVisibility()) this.find(`.${part} button`).focus();
  }

  /** Forget the file, and stop an upload or a recording. */
  reset() {
    this.uploading?.abort();
    this.endRecording();
    this.input.value = "";
    showError(this.root, null);
    this.show("drop");
    if (this.file) this.onChange((this.file = null));
  }

  fail(error) {
    this.reset();
    showError(this.root, error);
  }

  /** Upload a file of the browser. */
  async take(file) {
    this.reset();
    if (this.limits.max_upload && file.size > this.limits.max_upload) {
      return this.fail(new Problem(t("too_large", file.name, this.limits.max_upload)));
    }
    const [uploading, bar] = [new AbortController(), this.find("progress")];
    this.uploading = uploading;
    bar.value = 0;
    bar.setAttribute("aria-label", t("uploading", file.name));
    this.find(".upload .name").textContent = `${file.name} · ${bytes(file.size)}`;
    this.show("upload");
    const onProgress = (share) => (share < 1 ? (bar.value = share) : bar.removeAttribute("value"));
    try {
      const stored = await upload(file, { signal: uploading.signal, onProgress });
      if (this.uploading === uploading) this.use(stored);
    } catch (error) {
      if (this.uploading === uploading && error.name !== "AbortError") this.fail(error);
    }
  }

  /** Use a file that the service has. */
  use(stored) {
    this.uploading = null;
    const { kind, has_audio: hasAudio } = stored.media;
    if (this.kind === "face" ? !["video", "image"].includes(kind) : !hasAudio) {
      return this.fail(new Problem(t(`not_${this.kind}`, stored.filename)));
    }
    showError(this.root, null);
    this.file = stored;
    this.find(".chosen .name").textContent = stored.filename;
    this.find(".about").textContent = this.about();
    this.show("chosen");
    this.onChange(stored);
  }

  about() {
    const { width, height, seconds, fps, kind } = this.file.media;
    const size = this.kind === "face" && width ? `${width} × ${height}` : null;
    const rate = this.kind === "face" && kind === "video" && fps ? t("fps", fps) : null;
    return [seconds && kind !== "image" ? clock(seconds) : null, size, rate, bytes(this.file.bytes)].filter(Boolean).join(" · ");
  }

  async record() {
    this.reset();
    if (!navigator.mediaDevices || !window.MediaRecorder) {
      return this.fail(new Problem(t("record_insecure")));
    }
    const isFace = this.kind === "face";
    try {
      this.stream = await navigator.mediaDevices.getUserMedia(
        isFace ? { video: { facingMode: "user", width: { ideal: 1280 } } } : { audio: true },
      );
    } catch (error) {
      const isRefused = error.name === "NotAllowedError";
      return this.fail(new Problem(t(isRefused ? "record_refused" : `${this.kind}_missing`)));
    }
    const preview = this.find(".recorder video");
    preview.hidden = !isFace;
    if (isFace) {
      preview.srcObject = this.stream;
      await preview.play();
    }
    this.startRecorder();
    this.show("recorder");
  }

  startRecorder() {
    const type = RECORDED[this.kind].find((name) => MediaRecorder.isTypeSupported(name));
    const recorder = new MediaRecorder(this.stream, { mimeType: type });
    const [chunks, started] = [[], performance.now()];
    const timer = this.find("output[role=timer]");
    recorder.ondataavailable = (event) => chunks.push(event.data);
    recorder.onstop = () => {
      if (this.recorder !== recorder) return; // discarded
      this.endRecording();
      const suffix = recorder.mimeType.includes("mp4") ? (this.kind === "face" ? "mp4" : "m4a") : "webm";
      const name = `${t(`${this.kind}_recorded`)}.${suffix}`;
      this.take(new File(chunks, name, { type: recorder.mimeType }));
    };
    this.recorder = recorder;
    timer.textContent = clock(0);
    this.ticking = setInterval(() => {
      const seconds = (performance.now() - started) / 1000;
      timer.textContent = clock(seconds);
      if (this.limits.max_seconds && seconds > this.limits.max_seconds) recorder.stop();
    }, 250);
    recorder.start(1000);
  }

  endRecording() {
    clearInterval(this.ticking);
    const { recorder } = this;
    this.recorder = null;
    if (recorder && recorder.state !== "inactive") recorder.stop();
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    this.find(".recorder video").srcObject = null;
  }
}

/** Let files be dropped anywhere: on a source, or several at once, which are sorted by type. */
export function acceptDrops(face, voices) {
  const over = (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    const card = event.target.closest?.(".source");
    for (const source of [face, ...voices()]) source.root.classList.toggle("over", source.root === card);
  };
  document.addEventListener("dragover", over);
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) for (const { root } of [face, ...voices()]) root.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    const files = [...(event.dataTransfer?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    const sources = [face, ...voices()];
    for (const { root } of sources) root.classList.remove("over");
    const card = event.target.closest?.(".source");
    if (files.length === 1 && card) return sources.find(({ root }) => root === card).take(files[0]);
    const sounds = files.filter((file) => file.type.startsWith("audio/"));
    const pictures = files.filter((file) => !file.type.startsWith("audio/"));
    if (pictures.length) face.take(pictures[0]);
    if (!sounds.length && pictures.length > 1) sounds.push(pictures[1]);
    voices().forEach((voice, index) => sounds[index] && voice.take(sounds[index]));
  });
}
