/** Who spoke when, from the report of a video with several speakers. */
import { rate, t } from "./texts.js";

const SPANS = 6; // turns that are listed in words

/** Return a figure with a row for each speaker; null for a report of one. */
export function turnsOf(report, start = 0) {
  if (!report?.speakers?.length) return null;
  const length = report.frames / rate(report.fps);
  const figure = element("figure", "turns");
  figure.append(element("figcaption", "", t("turns")), element("ul", ""));
  report.speakers.forEach((speaker, index) => figure.lastChild.append(row(speaker, index, start, length)));
  return figure;
}

function row({ name, turns, face, dubbed_frames: dubbed }, index, start, length) {
  const item = element("li", "");
  item.dataset.colour = index % 8;
  const track = element("span", "track");
  track.setAttribute("aria-hidden", "true");
  for (const [from, to] of turns) {
    const bar = element("i", "");
    const [left, right] = [from - start, to - start].map((time) => 100 * Math.min(1, Math.max(0, time / length)));
    Object.assign(bar.style, { left: `${left}%`, width: `${right - left}%` });
    track.append(bar);
  }
  const times = turns.slice(0, SPANS).map(([from, to]) => t("turn", from - start, to - start));
  if (turns.length > SPANS) times.push(t("more_spans", turns.length - SPANS));
  const mouth = face === null ? t("only_heard") : t("mouth_frames", dubbed);
  const words = element("span", "when", [times.join(", "), mouth].filter(Boolean).join(" · "));
  words.classList.toggle("warn", face !== null && !dubbed);
  item.append(element("strong", "", name), track, words);
  return item;
}

function element(tag, className, textContent = "") {
  return Object.assign(document.createElement(tag), { className, textContent });
}
