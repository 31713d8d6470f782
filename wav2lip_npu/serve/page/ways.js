/** The two tabs of the page: make a video, or speak live. The address remembers which one. */
import { onLanguage } from "./texts.js";

export class Ways {
  /** Calls onEnter() and onLeave() when the live tab is entered and left. */
  constructor({ onEnter, onLeave }) {
    Object.assign(this, { onEnter, onLeave });
    this.buttons = [...document.querySelectorAll("[data-to]")];
    for (const button of this.buttons) button.onclick = () => (location.hash = button.dataset.to === "live" ? "live!" : "");
    addEventListener("hashchange", () => this.show());
    onLanguage(() => this.show());
    this.show();
  }

  show() {
    const before = this.way;
    this.way = location.hash === "#live!" ? "live" : "video";
    for (const button of this.buttons) button.setAttribute("aria-pressed", button.dataset.to === this.way);
    for (const part of document.querySelectorAll("[data-way]")) part.hidden = part.dataset.way !== this.way;
    if (before === this.way) return;
    if (this.way === "live") this.onEnter();
    if (before === "live") this.onLeave();
  }
}
