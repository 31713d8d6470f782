/** The live tab: a face that speaks what a microphone or an audio file says, shown while it speaks. */
import { Problem, post, request } from "./api.js";
import { SocketPicture, WebRtcPicture, socketAddress } from "./live_picture.js";
import { LiveSound } from "./live_sound.js";
import { announce, explainIfSlow, number, onLanguage, showError, t } from "./texts.js";

const FIGURES_MS = 1000;
const BEHIND_MS = 600; // pauses of a microphone are left out until the delay is below it
const AVATAR_S = 5; // of the video: a longer part takes longer to prepare
const OPTIONS = ["rest", "occlusion", "blend", "pads", "mel_shift", "max_yaw"];

export class Live {
  /**
   * `ask()` returns face_id, model and options of a stream, or null after it has shown what is missing.
   * Calls onFace(id) when a face of a recent video is chosen.
   */
  constructor({ ask, onFace }) {
    Object.assign(this, { ask, state: "idle", file: null, parts: [], figures: {} });
    this.root = document.getElementById("live");
    this.voice = document.getElementById("voice");
    this.error = document.getElementById("live-error");
    const find = (selector) => this.root.querySelector(selector);
    [this.video, this.canvas, this.status] = [find("video"), find("canvas"), find(".of")];
    [this.facts, this.hears] = [find(".facts"), find("[name=hear]")];
    [this.startButton, this.stopButton, this.interruptButton] = ["start", "stop", "interrupt"].map((name) =>
      document.getElementById(`live-${name}`),
    );
    this.startButton.onclick = () => this.start();
    this.stopButton.onclick = () => this.stop();
    this.interruptButton.onclick = () => this.interrupt();
    this.hears.onchange = () => this.writeSound();
    this.input = this.voice.querySelector("input[type=file]");
    this.input.onchange = () => this.input.files.length && this.take(this.input.files[0]);
    this.voice.querySelector(".choose").onclick = () => this.input.click();
    for (const radio of this.voice.querySelectorAll("[name=voice]")) radio.onchange = () => this.writeVoice();
    this.known = document.querySelector(".known select");
    this.known.onchange = () => {
      onFace(this.known.value);
      this.known.selectedIndex = 0;
    };
    addEventListener("pagehide", () => this.stop());
    onLanguage(() => this.write());
    this.write();
  }

  get isFile() {
    return this.voice.querySelector("[name=voice]:checked").value === "file";
  }

  /** Offer the faces of videos. */
  offer(videos) {
    const names = new Map(videos.filter(({ face_name: name }) => name).map((video) => [video.face_id, video.face_name]));
    this.known.replaceChildren(new Option("…", ""), ...[...names].map(([id, name]) => new Option(name, id)));
    this.known.parentElement.classList.toggle("none", !names.size);
  }

  /** Use an audio file of this computer. It is not uploaded. */
  take(file) {
    if (this.state !== "idle") return;
    this.file = file;
    this.voice.querySelector("[value=file]").checked = true;
    this.writeVoice();
  }

  /** Open the stream, send the sound and show the picture. */
  async start() {
    if (this.state === "ended") return this.speak();
    if (this.state !== "idle") return;
    const asked = this.ask();
    if (!asked) return;
    if (this.isFile && !this.file) {
      showError(this.error, new Problem(t("live_file_first")));
      return this.voice.querySelector(".choose").focus();
    }
    showError(this.error, null);
    const run = (this.run = {});
    try {
      await this.open(run, asked);
    } catch (error) {
      if (this.run === run) await this.stop(error);
    }
  }

  async open(run, { options, ...asked }) {
    const sound = (this.sound = new LiveSound({ onChunk: (pcm) => this.send(pcm), onEnd: (error) => this.onEnd(run, error) }));
    this.enter("microphone");
    await sound.open(this.isFile ? this.file : null).finally(() => this.run !== run && sound.close());
    if (this.run !== run) return;
    this.enter("opening");
    const chosen = Object.fromEntries(Object.entries(options).filter(([name]) => [...OPTIONS, "face_select"].includes(name)));
    const ended = explainIfSlow(this.status, "live_slow");
    const stream = await post("streams", {
      ...asked,
      options: { ...chosen, avatar_seconds: AVATAR_S },
      sample_rate: sound.rate,
    }).finally(ended);
    if (this.run !== run) return request("DELETE", `streams/${stream.id}`);
    this.stream = stream;
    this.root.querySelector(".screen").style.setProperty("--ratio", stream.width / stream.height);
    this.enter("connecting");
    await this.connect(run, stream);
    if (this.run !== run) return;
    this.ticking = setInterval(() => this.tick(run), FIGURES_MS);
    this.speak();
    this.root.scrollIntoView({ block: "nearest" });
  }

  /** Open the connection for the sound, and that for the picture: WebRTC where it works. */
  async connect(run, stream) {
    const socket = (this.socket = new WebSocket(socketAddress(`streams/${stream.id}/audio`)));
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => this.onMessage(run, JSON.parse(data));
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onclose = () => reject(new Problem(t("live_closed")));
    });
    socket.onclose = () => this.onLost(run);
    const lost = () => this.onLost(run);
    this.video.muted = true; // until it plays: see writeSound
    if (stream.webrtc && window.RTCPeerConnection) {
      const picture = (this.picture = new WebRtcPicture(this.video, lost));
      try {
        await picture.open(stream);
        return this.sound.listen(picture.media);
      } catch (error) {
        picture.close();
        if (this.run !== run || error.status === 401) throw error;
      }
    }
    this.picture = new SocketPicture(this.canvas, lost);
    await this.picture.open(stream);
  }

  /** Send the microphone, or the file from its beginning. */
  speak() {
    this.enter("live");
    this.sound.start();
    this.writeSound();
  }

  send(pcm) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(pcm);
  }

  order(type) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type }));
  }

  /** Drop the sound that was not shown yet. */
  interrupt() {
    this.order("clear");
    this.sound.interrupt();
    announce(t("live_interrupted"));
  }

  /** A file has ended, or the microphone is gone. */
  onEnd(run, error) {
    if (this.run !== run) return;
    if (error) return this.stop(error);
    this.order("flush");
    if (this.state === "live") this.enter("ended");
  }

  onMessage(run, message) {
    if (this.run !== run) return;
    const { message: text, code } = message.error ?? {};
    if (message.type === "ended") this.stop(new Problem(text ?? t("live_closed"), 0, code));
    if (message.type !== "metrics") return;
    this.figures = message;
    this.sound.skipsPauses = !this.isFile && (message.delay_ms?.median ?? 0) > BEHIND_MS;
  }

  async onLost(run) {
    if (this.run === run) await this.stop(new Problem(t("live_closed")));
  }

  async tick(run) {
    const { images, transport } = await this.picture.figures();
    if (this.run !== run) return;
    const now = performance.now();
    const fps = this.counted ? (1000 * images) / (now - this.counted) : null;
    this.counted = now;
    const { delay_ms: inService, late } = this.figures;
    this.measured = this.picture.media ? this.sound.delay() ?? this.measured : null;
    if (!this.picture.media) this.writeSound();
    const delay = this.picture.media
      ? [t("live_delay"), this.measured ? t("live_ms", 1000 * this.measured) : t("live_measuring")]
      : [t("live_delay_service"), inService ? t("live_ms", inService.median) : "–"];
    this.writeFacts([
      delay,
      ...(this.picture.media && inService ? [[t("live_delay_service"), t("live_ms", inService.median)]] : []),
      [t("speed"), fps === null ? "–" : t("fps", Math.round(fps))],
      [t("live_skipped"), number(late ?? 0)],
      [t("live_transport"), transport],
    ]);
  }

  /** End, and release everything; also shows an error. */
  async stop(error = null) {
    const closed = this.release();
    this.enter("idle");
    showError(this.error, error);
    await closed;
  }

  release() {
    clearInterval(this.ticking);
    this.run = null;
    if (this.socket) this.socket.onclose = null;
    this.socket?.close();
    this.picture?.close(true);
    const closed = this.sound?.close();
    if (this.stream) fetch(`v1/streams/${this.stream.id}`, { method: "DELETE", keepalive: true }).catch(() => {});
    Object.assign(this, { socket: null, picture: null, sound: null, stream: null, figures: {}, measured: null, counted: null });
    return closed;
  }

  enter(state) {
    this.state = this.root.dataset.state = state;
    this.write();
    announce(this.status.textContent);
  }

  write() {
    const buttons = [this.startButton, this.stopButton, this.interruptButton];
    const focused = buttons.find((button) => button === document.activeElement);
    const isOpen = ["live", "ended"].includes(this.state);
    const isPlain = isOpen && !this.picture?.media;
    this.status.textContent = t(`live_is_${this.state === "microphone" && this.isFile ? "opening" : this.state}`);
    this.video.hidden = !isOpen || isPlain;
    this.canvas.hidden = !isPlain;
    this.root.querySelector(".screen").hidden = !isOpen;
    this.root.querySelector(".hearing").hidden = !isOpen;
    this.root.querySelector(".no-sound").hidden = !isPlain;
    this.facts.hidden = !isOpen;
    this.startButton.hidden = !["idle", "ended"].includes(this.state);
    this.startButton.textContent = t(this.state === "ended" ? "live_again" : "live_start");
    this.stopButton.hidden = this.state === "idle";
    this.interruptButton.hidden = this.state !== "live";
    if (focused?.hidden) buttons.find((button) => !button.hidden).focus();
    for (const field of this.voice.querySelectorAll("fieldset, .choose")) field.disabled = this.state !== "idle";
    this.writeVoice();
  }

  writeVoice() {
    const about = this.voice.querySelector(".name");
    this.voice.querySelector(".file").hidden = !this.isFile;
    this.voice.querySelector(".hint").textContent = t(this.isFile ? "live_file_hint" : "live_mic_hint");
    about.textContent = this.file ? this.file.name : t("live_no_file");
    if (this.state === "idle") this.hears.checked = this.isFile;
  }

  /** The picture of WebRTC has the sound; for another one, what is sent is played when it is shown. */
  writeSound() {
    this.video.muted = !this.hears.checked;
    const { delay_ms: delay } = this.figures;
    if (this.picture && !this.picture.media) this.sound.playLater((delay?.median ?? 0) / 1000, !this.hears.checked);
  }

  writeFacts(facts) {
    this.facts.replaceChildren(
      ...facts.map(([name, value]) => {
        const pair = document.createElement("div");
        pair.append(
          Object.assign(document.createElement("dt"), { textContent: name }),
          Object.assign(document.createElement("dd"), { textContent: value }),
        );
        return pair;
      }),
    );
  }
}
