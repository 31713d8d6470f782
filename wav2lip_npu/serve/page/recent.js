/** The list of recent videos: the service's, those made in this browser first. */
import { get, isOver, request } from "./api.js";
import { announce, duration, number, onLanguage, showError, t } from "./texts.js";

const LISTED = 30;
const REFRESH_MS = 3000;
const files = new Map();

/** Return the stored files of a video, null for those that were removed. */
export function filesOf(video) {
  return Promise.all(
    [video.face_id, video.audio_id].map((id) => {
      if (!files.has(id)) files.set(id, get(`files/${id}`).catch(() => null));
      return files.get(id);
    }),
  );
}

export function namesOf(video) {
  const voices = video.speakers?.map(({ name }) => name).join(", ") || video.audio_name;
  return [video.face_name, voices].filter(Boolean).join(t("and")) || t("unnamed");
}

export class Recent {
  /** Calls onOpen(video, names). */
  constructor({ onOpen }) {
    Object.assign(this, { onOpen, videos: [], shown: null, sure: null, timer: 0 });
    this.root = document.getElementById("recent");
    this.list = this.root.querySelector("ul");
    this.mine = new Set(JSON.parse(localStorage.getItem("videos") ?? "[]"));
    onLanguage(() => this.draw());
  }

  /** Remember that a video was made in this browser. */
  add(video) {
    this.mine.add(video.id);
    this.keep();
  }

  keep() {
    localStorage.setItem("videos", JSON.stringify([...this.mine].slice(-200)));
  }

  /** Mark the video that is shown as the result. */
  mark(id) {
    this.shown = id;
    for (const item of this.list.children) item.toggleAttribute("data-shown", item.dataset.id === id);
  }

  /** Ask the service for its list, and again while a video is under way. */
  async refresh() {
    clearTimeout(this.timer);
    try {
      const { data } = await get(`videos?limit=${LISTED}&order=desc`);
      const missing = [...this.mine].slice(-LISTED).filter((id) => !data.some((video) => video.id === id));
      if (data.length === LISTED) {
        const others = await Promise.all(missing.map((id) => get(`videos/${id}`).catch(() => null)));
        data.push(...others.filter(Boolean));
      } else missing.forEach((id) => this.mine.delete(id));
      const rank = (video) => (this.mine.has(video.id) ? 0 : 1);
      this.videos = data.sort((one, other) => rank(one) - rank(other) || other.created_at - one.created_at);
      showError(this.root, null);
      await this.draw();
    } catch (error) {
      showError(this.root, error);
    }
    const isActive = this.videos.some((video) => !isOver(video));
    if (isActive) this.timer = setTimeout(() => this.refresh(), REFRESH_MS);
  }

  /** Write the progress of a video. */
  update(video) {
    const words = this.list.querySelector(`[data-id="${video.id}"] .state`);
    if (words) words.textContent = this.state(video);
  }

  async draw() {
    const names = this.videos.map(namesOf);
    const focused = document.activeElement;
    const [id, role] = [focused.closest?.("#recent li")?.dataset.id, focused.dataset?.role];
    const { sure } = this; // a question that is open stays open; its removed button loses the focus
    this.list.replaceChildren(...this.videos.map((video, index) => this.item(video, names[index])));
    this.sure = sure;
    this.root.querySelector(".none").hidden = this.videos.length > 0;
    this.mark(this.shown);
    if (id) this.list.querySelector(`[data-id="${id}"] [data-role="${role}"]`)?.focus();
  }

  item(video, names) {
    const item = document.createElement("li");
    item.dataset.id = video.id;
    const open = Object.assign(document.createElement("button"), { type: "button", className: "open" });
    open.dataset.role = "open";
    open.onclick = () => this.onOpen(video, names);
    const picture = document.createElement("span");
    picture.className = "thumb";
    if (video.status === "completed") {
      const image = Object.assign(new Image(), { alt: "", loading: "lazy" });
      image.onerror = () => image.remove();
      image.src = `v1/videos/${video.id}/content?variant=thumbnail`;
      picture.append(image);
    }
    const words = document.createElement("span");
    words.className = "words";
    const name = Object.assign(document.createElement("strong"), { textContent: names });
    const state = Object.assign(document.createElement("span"), { textContent: this.state(video) });
    state.className = `state ${video.status}`;
    words.append(name, state);
    open.append(picture, words);
    item.append(open, this.remover(video, names));
    return item;
  }

  state(video) {
    const past = Date.now() / 1000 - video.created_at;
    const when = past < 60 ? t("just_now") : t("ago", past);
    const status = t(video.status === "failed" ? "failed_job" : video.status);
    const done = video.status === "in_progress" ? ` ${number(video.progress)} %` : "";
    const here = this.mine.has(video.id) && this.mine.size < this.videos.length ? ` · ${t("here")}` : "";
    return `${status}${done} · ${when}${here}`;
  }

  /** A button that deletes at the second press. */
  remover(video, names) {
    const button = Object.assign(document.createElement("button"), { type: "button", className: "quiet" });
    button.dataset.role = "remove";
    const write = () => {
      const isSure = this.sure === video.id;
      button.textContent = t(isSure ? "sure" : "remove");
      button.setAttribute("aria-label", isSure ? `${t("sure")} ${names}` : t("remove_name", names));
      button.classList.toggle("sure", isSure);
    };
    write();
    button.onblur = () => {
      this.sure = null;
      write();
    };
    button.onclick = async () => {
      if (this.sure !== video.id) {
        this.sure = video.id;
        return write();
      }
      try {
        await request("DELETE", `videos/${video.id}`);
        this.mine.delete(video.id);
        this.keep();
        await this.refresh();
        this.root.querySelector("h2").focus();
        announce(t("removed"));
      } catch (error) {
        showError(this.root, error);
      }
    };
    return button;
  }
}
