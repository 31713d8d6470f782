/** The picture of a live stream: WebRTC with its sound, or JPEG images over a WebSocket without it. */
import { Problem, request } from "./api.js";
import { t } from "./texts.js";

const CONNECT_MS = 8000;
const GATHER_MS = 1500; // for addresses of this computer; the service needs none of them

/** Return the address of a WebSocket below the page. */
export function socketAddress(path) {
  const address = new URL(`v1/${path}`, document.baseURI);
  address.protocol = address.protocol.replace("http", "ws");
  return address.href;
}

/** A WebRTC connection by WHEP. Calls onLost() when it breaks. */
export class WebRtcPicture {
  constructor(video, onLost) {
    Object.assign(this, { video, onLost, place: null, seen: 0 });
  }

  /** Connect, and wait for the first image. Raises a Problem. */
  async open(stream) {
    const peer = (this.peer = new RTCPeerConnection());
    peer.ontrack = ({ streams }) => ([this.media] = streams); // with both tracks, which the browser keeps in step
    for (const kind of ["video", "audio"]) peer.addTransceiver(kind, { direction: "recvonly" });
    await peer.setLocalDescription();
    await gathered(peer);
    const headers = { "Content-Type": "application/sdp" };
    const reply = await request("POST", `streams/${stream.id}/whep`, { body: peer.localDescription.sdp, headers });
    this.place = new URL(reply.headers.get("Location"), reply.url);
    await peer.setRemoteDescription({ type: "answer", sdp: await reply.text() });
    this.video.srcObject = this.media;
    await withIn(CONNECT_MS, async () => {
      await connected(peer);
      await this.video.play();
    });
    peer.onconnectionstatechange = () => {
      if (["failed", "closed"].includes(peer.connectionState)) this.onLost();
    };
  }

  /** Return what was received: the codec and the images since the last call. */
  async figures() {
    const report = [...(await this.peer.getStats()).values()];
    const video = report.find(({ type, kind }) => type === "inbound-rtp" && kind === "video");
    const codec = report.find(({ id }) => id === video?.codecId)?.mimeType.split("/")[1] ?? "";
    const images = (video?.framesDecoded ?? 0) - this.seen;
    this.seen += images;
    return { images, transport: `WebRTC, ${codec}` };
  }

  /** Disconnect; the end of the stream disconnects it, too. */
  close(hasEnded = false) {
    if (!this.peer) return;
    this.peer.onconnectionstatechange = null;
    this.peer.close();
    this.video.srcObject = null;
    if (this.place && !hasEnded) fetch(this.place, { method: "DELETE", keepalive: true }).catch(() => {});
  }
}

/** Images over a WebSocket, drawn on a canvas. Calls onLost() when it breaks. */
export class SocketPicture {
  constructor(canvas, onLost) {
    Object.assign(this, { canvas, onLost, seen: 0 });
  }

  async open(stream) {
    Object.assign(this.canvas, { width: stream.width, height: stream.height });
    const socket = (this.socket = new WebSocket(socketAddress(`streams/${stream.id}/frames`)));
    socket.binaryType = "arraybuffer";
    let [arrived, drawn] = [0, 0];
    await withIn(CONNECT_MS, () => new Promise((resolve, reject) => {
      socket.onmessage = async ({ data }) => {
        const [image] = imagesOf(data).slice(-1);
        if (!image) return;
        const number = (arrived += 1);
        const bitmap = await createImageBitmap(new Blob([image], { type: "image/jpeg" }));
        if (number < drawn) return bitmap.close(); // a later image was decoded sooner
        drawn = number;
        this.canvas.getContext("2d").drawImage(bitmap, 0, 0, this.canvas.width, this.canvas.height);
        bitmap.close();
        this.seen += 1;
        resolve();
      };
      socket.onclose = () => reject(new Problem(t("live_no_picture")));
    }));
    socket.onclose = () => this.onLost();
  }

  async figures() {
    const images = this.seen;
    this.seen = 0;
    return { images, transport: "WebSocket, JPEG" };
  }

  close() {
    if (!this.socket) return;
    this.socket.onclose = null;
    this.socket.close();
  }
}

/** Images of a message: VIDX, their number, and each after its length. */
export function imagesOf(message) {
  const view = new DataView(message);
  if (message.byteLength < 8 || view.getUint32(0) !== 0x56494458) return [];
  const images = [];
  for (let [at, left] = [8, view.getUint32(4, true)]; left > 0; left -= 1) {
    const size = view.getUint32(at, true);
    images.push(new Uint8Array(message, at + 4, size));
    at += 4 + size;
  }
  return images;
}

function gathered(peer) {
  return new Promise((resolve) => {
    if (peer.iceGatheringState === "complete") return resolve();
    peer.onicegatheringstatechange = () => peer.iceGatheringState === "complete" && resolve();
    setTimeout(resolve, GATHER_MS);
  });
}

function connected(peer) {
  return new Promise((resolve, reject) => {
    const look = () => {
      if (peer.connectionState === "connected") resolve();
      if (["failed", "closed"].includes(peer.connectionState)) reject(new Problem(t("live_no_picture")));
    };
    peer.onconnectionstatechange = look;
    look();
  });
}

function withIn(time, work) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Problem(t("live_no_picture"))), time));
  return Promise.race([work(), late]);
}
