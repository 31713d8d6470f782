/** The texts of the page in English and Chinese, and how times, sizes and numbers are written. */
import * as live from "./live_texts.js";

const en = {
  skip: "Skip to the form",
  tagline: "Makes a face speak your audio",
  language: "Language",
  face: "Face",
  audio: "Audio",
  options: "Options",
  face_ask: "Drop a video or a photo of a face",
  audio_ask: "Drop what the face should say",
  face_hint: (limits) => `MP4, MOV, MKV, WebM, JPEG, PNG, HEIC and others${upTo(limits, ", up to ")}`,
  audio_hint: (limits) => `WAV, MP3, M4A, FLAC, or the audio of a video${upTo(limits, ", up to ")}`,
  choose: "Choose a file",
  face_choose: "Choose a file with a face",
  audio_choose: "Choose a file with audio",
  face_record: "Record camera",
  audio_record: "Record voice",
  face_recorded: "camera",
  audio_recorded: "voice",
  replace: "Change",
  face_replace: "Change the face",
  audio_replace: "Change the audio",
  recording: "Recording",
  stop: "Stop and use it",
  discard: "Discard",
  cancel: "Cancel",
  uploading: (name) => `Uploading ${name}`,
  too_large: (name, limit) => `${name} is larger than this service accepts (${bytes(limit)}).`,
  not_face: (name) => `${name} has only audio. Choose a video or a photo of a face.`,
  not_audio: (name) => `${name} has no audio. Choose a recording, or a video with audio.`,
  record_insecure: "The browser allows recording only over https, or on this computer (localhost).",
  record_refused: "The browser was not allowed to record. Allow it in the address bar, then try again.",
  face_missing: "The browser found no camera. Choose a file instead.",
  audio_missing: "The browser found no microphone. Choose a file instead.",
  who_speaks: "Who speaks?",
  look_at: "Frame at",
  looking: "Looking for faces…",
  slow: "The first time takes a few seconds: the service loads its networks.",
  faces_none: (isVideo) => `No face found here.${isVideo ? " Move the slider to a frame with a face." : ""}`,
  faces_found: (count) => (count === 1 ? "1 face found." : `${count} faces found. Choose the one that speaks.`),
  face_name: (number, reason) => `Face ${number}${reason ? `: ${reason}` : ""}`,
  stays: (reason) => `This face would stay as filmed here: ${reason}`,
  reason_turned: "it is turned away from the camera.",
  reason_small: "it is too small.",
  reason_covered: "the mouth is covered.",
  reason_no_face: "no face",
  reason_skip: "left out",
  play: "Play",
  pause: "Pause",
  position_in_audio: "Position in the audio",
  listening: "Looking for pauses…",
  pauses: (count) =>
    count ? `${count === 1 ? "1 pause" : `${count} pauses`}, shaded: the mouth is closed there.` : "No pauses.",
  defaults: "defaults",
  changed: (count) => `${count} changed`,
  model: "Model",
  extend: "If the audio is longer than the video",
  extend_loop: "Loop the video",
  extend_pingpong: "Play the video back and forth",
  extend_hold: "Hold the last frame",
  extend_cut_off: "End with the video",
  extend_silence: "Loop; keep the rest of a longer video",
  crf: "Quality of the file",
  crf_best: "Best, large file",
  crf_high: "High",
  crf_small: "Smaller file",
  rest: "Close the mouth in pauses",
  occlusion: "Keep hands and microphones in front of the mouth",
  blend: "Blend the mouth softly into the frame",
  start: "Start at (seconds)",
  duration: "Length (seconds)",
  to_the_end: "to the end",
  pads: "Room below the chin (pixels)",
  mel_shift: "Audio offset (in frames of 40 ms)",
  automatic: "automatic",
  max_yaw: "Leave the face unchanged when turned more than (degrees)",
  reset: "Reset options",
  test_frame: "Test one frame",
  generate: "Generate video",
  promise: (keep) =>
    `Files stay on this service${keep ? ` and are deleted after ${duration(keep)}` : ""}. Use faces and voices of people who have agreed.`,
  face_first: "Add a face first.",
  audio_first: (whose) => `Add audio first${whose}.`,
  wrong_number: (label) => `“${label}” is out of range.`,
  result: "Result",
  how_1: "Add a face and the audio it should speak.",
  how_2: "Test one frame to see the mouth.",
  how_3: "Generate, and compare with the original.",
  testing: "Making one frame…",
  tested: "Test of one frame",
  test_at: "Frame at",
  queued: "Waiting",
  in_progress: "Generating",
  completed: "Finished",
  failed_job: "Failed",
  cancelled: "Cancelled",
  queue: (ahead) => (ahead > 0 ? `${ahead === 1 ? "1 video" : `${ahead} videos`} ahead` : "next in line"),
  stage: (stage) => STAGES_EN[stage] ?? stage,
  progress: "Progress",
  frames: "Frames",
  frames_of: (done, all) => (all ? `${number(done)} of ${number(all)}` : number(done)),
  speed: "Speed",
  fps: (fps) => `${number(fps, fps < 10 ? 1 : fps % 1 ? 2 : 0)} fps`,
  left: "Time left",
  about: (seconds) => `about ${duration(seconds)}`,
  said_progress: (percent, left) => `${percent} percent${left ? `, ${left} left` : ""}`,
  original: "Original",
  dubbed: "Dubbed",
  wipe: "Wipe",
  side: "Side by side",
  view: "View",
  wipe_label: "Border between original and dubbed",
  position: "Position in the video",
  sound: "Sound",
  off: "Off",
  no_original: "This browser cannot show the original file, so only the dubbed video is shown.",
  unplayable: "This browser cannot play the video. Download it to watch it.",
  download: "Download",
  full_report: "Full report",
  sync_good: (confidence) => `Mouth and audio match well (confidence ${number(confidence, 2)})`,
  sync_fair: (confidence) => `Mouth and audio match (confidence ${number(confidence, 2)})`,
  sync_poor: (confidence) => `Mouth and audio may not match: watch the video closely (confidence ${number(confidence, 2)})`,
  sync_short: "Too short to judge how well mouth and audio match",
  offset_none: "In sync: no offset",
  offset_early: (frames) => `The audio is ${milliseconds(frames)} early`,
  offset_late: (frames) => `The audio is ${milliseconds(frames)} late`,
  all_dubbed: (frames) => `All ${number(frames)} frames are dubbed`,
  some_dubbed: (dubbed, frames) => `${number(dubbed)} of ${number(frames)} frames are dubbed. As filmed`,
  span: (from, to, reason) => `${seconds(from)}–${seconds(to)} s (${reason})`,
  more_spans: (count) => `${count} more`,
  short_turned: "turned away",
  short_small: "too small",
  short_covered: "covered",
  made: (report, taken) => `${report.width} × ${report.height}, ${t("fps", rate(report.fps))}, made in ${duration(taken)} on ${report.device}`,
  add_speaker: "Add a speaker",
  speaker: (number) => `Speaker ${number}`,
  speaker_name: "Name of the speaker",
  speaker_removed: "The speaker was removed.",
  face_of: "Face of",
  face_whose: (name) => `Face of ${name}`,
  face_chosen: (name) => `This is the face of ${name}.`,
  faces_found_of: (count, name) => `${count === 1 ? "1 face" : `${count} faces`} found. Choose that of ${name}.`,
  unseen: "Only heard, not seen",
  photo_choose: "Choose a photo of this speaker",
  photo_of: (name) => `As in the photo ${name}`,
  photo_sending: (name) => `Sending ${name} …`,
  same_name: (name) => `Two speakers are called ${name}. Write another name.`,
  not_name: (name) => `${name} cannot be a name. Leave out = and @.`,
  not_photo: (name) => `${name} is not a photo. Choose a picture of the speaker's face.`,
  turns: "Who spoke when",
  turn: (from, to) => `${seconds(from)}–${seconds(to)} s`,
  mouth_frames: (count) => (count ? `${number(count)} frames dubbed` : "the face was never dubbed"),
  only_heard: "only heard",
  short_listening: "nobody speaks",
  short_unsure: "speaker not certain",
  use_again: "Use these inputs again",
  gone: "This video was removed from the service.",
  lost: "The service does not answer. The page keeps trying; the job continues as long as the service is running.",
  recent: "Recent videos",
  recent_none: "Videos that you make are listed here.",
  here: "made here",
  remove: "Delete",
  remove_name: (name) => `Delete ${name}`,
  sure: "Delete for good?",
  removed: "Deleted.",
  unnamed: "Video",
  just_now: "just now",
  ago: (past) => `${duration(past)} ago`,
  service: (version, devices) => `wav2lip-npu ${version}${devices ? ` on ${devices}` : ""}`,
  token_title: "This service needs a token",
  token_text: "Ask whoever runs it. The browser keeps it for this service only.",
  token: "Token",
  not_now: "Not now",
  continue: "Continue",
  unreachable: "The service does not answer. Check that it is running, then try again.",
  failed: (status) => `The service answered with error ${status}.`,
  problem_options: "The service does not accept one of the options.",
  problem_media: "The service cannot use this file.",
  problem_no_sound: "The audio file has no sound. Choose another one.",
  problem_no_face: "No face was found. Choose another face file.",
  problem_weights: "The service cannot use this model. Choose another one under Options.",
  problem_input: "The service cannot use these inputs.",
  problem_unauthorized: "The token is missing or wrong.",
  problem_forbidden: "The service refuses requests from this address. Open the page at the address that the service printed at its start.",
  problem_not_found: "This no longer exists on the service: it was deleted or has expired.",
  problem_gone: "This video was deleted.",
  problem_conflict: "The service cannot do this now: something is still in use, or has already ended.",
  problem_too_large: "This is larger than the service accepts.",
  problem_busy: "The service is busy. Try again later.",
  problem_unavailable: "The service is not ready. Try again in a minute.",
  problem_storage: "The disk of the service is full. Try again later.",
  problem_device: "The service cannot answer now. Try again in a minute.",
  problem_died: "The service gave up: the program crashed several times on these inputs.",
  problem_timeout: "The service gave up: this takes longer than it allows.",
  problem_bug: "An error in the program. The log of the service has its details.",
  and: " + ",
};

const STAGES_EN = { preparing: "preparing", dubbing: "dubbing", finishing: "finishing" };

const zh = {
  skip: "跳到表单",
  tagline: "让人脸说出您的音频",
  language: "语言",
  face: "人脸",
  audio: "音频",
  options: "选项",
  face_ask: "将人脸视频或照片拖到这里",
  audio_ask: "将要说的音频拖到这里",
  face_hint: (limits) => `MP4、MOV、MKV、WebM、JPEG、PNG、HEIC 等${upTo(limits, "，最大 ")}`,
  audio_hint: (limits) => `WAV、MP3、M4A、FLAC，或视频中的声音${upTo(limits, "，最大 ")}`,
  choose: "选择文件",
  face_choose: "选择文件：人脸",
  audio_choose: "选择文件：音频",
  face_record: "用摄像头录制",
  audio_record: "录音",
  face_recorded: "摄像头",
  audio_recorded: "录音",
  replace: "更换",
  face_replace: "更换人脸",
  audio_replace: "更换音频",
  recording: "正在录制",
  stop: "停止并使用",
  discard: "放弃",
  cancel: "取消",
  uploading: (name) => `正在上传 ${name}`,
  too_large: (name, limit) => `${name} 超过了本服务的大小上限（${bytes(limit)}）。`,
  not_face: (name) => `${name} 只有声音。请选择人脸视频或照片。`,
  not_audio: (name) => `${name} 没有声音。请选择录音或有声音的视频。`,
  record_insecure: "浏览器只允许在 https 或本机（localhost）上录制。",
  record_refused: "浏览器未获得录制权限。请在地址栏中允许，然后重试。",
  face_missing: "浏览器没有找到摄像头。请改为选择文件。",
  audio_missing: "浏览器没有找到麦克风。请改为选择文件。",
  who_speaks: "谁在说话？",
  look_at: "画面时间",
  looking: "正在查找人脸……",
  slow: "首次需要几秒钟：服务正在加载网络。",
  faces_none: (isVideo) => `此处没有找到人脸。${isVideo ? "请移动滑块到有人脸的画面。" : ""}`,
  faces_found: (count) => (count === 1 ? "找到 1 张人脸。" : `找到 ${count} 张人脸。请选择说话的人。`),
  face_name: (number, reason) => `人脸 ${number}${reason ? `：${reason}` : ""}`,
  stays: (reason) => `这张脸在此处会保持原样：${reason}`,
  reason_turned: "脸转离了镜头。",
  reason_small: "脸太小。",
  reason_covered: "嘴被遮住。",
  reason_no_face: "无人脸",
  reason_skip: "已跳过",
  play: "播放",
  pause: "暂停",
  position_in_audio: "音频位置",
  listening: "正在查找停顿……",
  pauses: (count) => (count ? `${count} 处停顿（阴影部分）：嘴在此处闭合。` : "没有停顿。"),
  defaults: "默认即可",
  changed: (count) => `已更改 ${count} 项`,
  model: "模型",
  extend: "音频比视频长时",
  extend_loop: "从头重复视频",
  extend_pingpong: "来回播放视频",
  extend_hold: "停在最后一帧",
  extend_cut_off: "随视频结束",
  extend_silence: "从头重复；视频较长时完整保留",
  crf: "文件质量",
  crf_best: "最佳，文件较大",
  crf_high: "高",
  crf_small: "文件较小",
  rest: "停顿时闭嘴",
  occlusion: "手和话筒保持在嘴的前面",
  blend: "嘴部与画面柔和融合",
  start: "起点（秒）",
  duration: "时长（秒）",
  to_the_end: "到结尾",
  pads: "下巴下方留边（像素）",
  mel_shift: "音频偏移（1/25 秒为一帧）",
  automatic: "自动",
  max_yaw: "转头超过此角度时保持原样（度）",
  reset: "恢复默认选项",
  test_frame: "预览一帧",
  generate: "生成视频",
  promise: (keep) => `文件只保存在本服务上${keep ? `，${duration(keep)}后删除` : ""}。请只使用已征得同意的人脸和声音。`,
  face_first: "请先添加人脸。",
  audio_first: (whose) => `请先添加音频${whose}。`,
  wrong_number: (label) => `“${label}”的数值无效。`,
  result: "结果",
  how_1: "添加人脸，以及它要说的音频。",
  how_2: "预览一帧，查看嘴部效果。",
  how_3: "生成视频，并与原片对比。",
  testing: "正在生成一帧……",
  tested: "单帧试做",
  test_at: "画面时间",
  queued: "排队中",
  in_progress: "正在生成",
  completed: "已完成",
  failed_job: "失败",
  cancelled: "已取消",
  queue: (ahead) => (ahead > 0 ? `前面还有 ${ahead} 个视频` : "下一个就轮到"),
  stage: (stage) => STAGES_ZH[stage] ?? stage,
  progress: "进度",
  frames: "帧数",
  frames_of: (done, all) => (all ? `${number(done)} / ${number(all)}` : number(done)),
  speed: "速度",
  fps: (fps) => `${number(fps, fps < 10 ? 1 : fps % 1 ? 2 : 0)} 帧/秒`,
  left: "剩余时间",
  about: (seconds) => `约 ${duration(seconds)}`,
  said_progress: (percent, left) => `百分之 ${percent}${left ? `，剩余${left}` : ""}`,
  original: "原片",
  dubbed: "配音后",
  wipe: "划动对比",
  side: "并排",
  view: "显示方式",
  wipe_label: "原片与配音后的分界",
  position: "视频位置",
  sound: "声音",
  off: "关",
  no_original: "此浏览器无法显示原文件，因此只显示配音后的视频。",
  unplayable: "此浏览器无法播放该视频。请下载后观看。",
  download: "下载",
  full_report: "完整报告",
  sync_good: (confidence) => `口型与音频吻合良好（置信度 ${number(confidence, 2)}）`,
  sync_fair: (confidence) => `口型与音频基本吻合（置信度 ${number(confidence, 2)}）`,
  sync_poor: (confidence) => `口型与音频可能不吻合，请仔细查看视频（置信度 ${number(confidence, 2)}）`,
  sync_short: "视频太短，无法判断口型与音频是否吻合",
  offset_none: "音画同步，无偏移",
  offset_early: (frames) => `音频提前 ${milliseconds(frames)}`,
  offset_late: (frames) => `音频滞后 ${milliseconds(frames)}`,
  all_dubbed: (frames) => `全部 ${number(frames)} 帧均已配音`,
  some_dubbed: (dubbed, frames) => `${number(frames)} 帧中有 ${number(dubbed)} 帧已配音。保持原样`,
  span: (from, to, reason) => `${seconds(from)}–${seconds(to)} 秒（${reason}）`,
  more_spans: (count) => `另有 ${count} 段`,
  short_turned: "转头",
  short_small: "太小",
  short_covered: "被遮住",
  made: (report, taken) => `${report.width} × ${report.height}，${t("fps", rate(report.fps))}，在 ${report.device} 上用时 ${duration(taken)}`,
  add_speaker: "添加说话人",
  speaker: (number) => `说话人 ${number}`,
  speaker_name: "说话人的名字",
  speaker_removed: "已移除说话人。",
  face_of: "选择人脸：",
  face_whose: (name) => `${name} 的人脸`,
  face_chosen: (name) => `这是 ${name} 的人脸。`,
  faces_found_of: (count, name) => `找到 ${count} 张人脸。请选择 ${name} 的人脸。`,
  unseen: "只有声音，不出现在画面中",
  photo_choose: "选择此说话人的照片",
  photo_of: (name) => `如照片 ${name} 所示`,
  photo_sending: (name) => `正在发送 ${name} …`,
  same_name: (name) => `两位说话人都叫 ${name}。请改用其他名字。`,
  not_name: (name) => `${name} 不能用作名字。请去掉 = 和 @。`,
  not_photo: (name) => `${name} 不是照片。请选择说话人的人脸照片。`,
  turns: "谁在何时说话",
  turn: (from, to) => `${seconds(from)}–${seconds(to)} 秒`,
  mouth_frames: (count) => (count ? `已配音 ${number(count)} 帧` : "这张脸从未配音"),
  only_heard: "只有声音",
  short_listening: "无人说话",
  short_unsure: "无法确定说话人",
  use_again: "再次使用这些输入",
  gone: "此视频已从服务中删除。",
  lost: "服务没有响应，页面会继续尝试。只要服务在运行，视频就会继续生成。",
  recent: "最近的视频",
  recent_none: "您生成的视频会列在这里。",
  here: "在此生成",
  remove: "删除",
  remove_name: (name) => `删除 ${name}`,
  sure: "确定删除？",
  removed: "已删除。",
  unnamed: "视频",
  just_now: "刚刚",
  ago: (past) => `${duration(past)}前`,
  service: (version, devices) => `wav2lip-npu ${version}${devices ? `，设备 ${devices}` : ""}`,
  token_title: "此服务需要令牌",
  token_text: "请向服务的管理者索取。浏览器只为此服务保存它。",
  token: "令牌",
  not_now: "暂不",
  continue: "继续",
  unreachable: "服务没有响应。请确认服务正在运行，然后重试。",
  failed: (status) => `服务返回错误 ${status}。`,
  problem_options: "服务不接受其中一个选项。",
  problem_media: "服务无法使用此文件。",
  problem_no_sound: "音频文件没有声音。请选择其他文件。",
  problem_no_face: "没有找到人脸。请选择其他人脸文件。",
  problem_weights: "服务无法使用此模型。请在“选项”中选择其他模型。",
  problem_input: "服务无法使用这些输入。",
  problem_unauthorized: "令牌缺失或不正确。",
  problem_forbidden: "服务拒绝来自此地址的请求。请用服务启动时显示的地址打开页面。",
  problem_not_found: "服务上已没有此内容：已被删除或已过期。",
  problem_gone: "此视频已被删除。",
  problem_conflict: "服务现在无法执行此操作：内容仍在使用，或任务已结束。",
  problem_too_large: "超过了本服务的大小上限。",
  problem_busy: "服务繁忙，请稍后重试。",
  problem_unavailable: "服务尚未就绪，请一分钟后重试。",
  problem_storage: "服务的磁盘已满，请稍后重试。",
  problem_device: "服务暂时无法回答，请一分钟后重试。",
  problem_died: "服务已放弃：处理这些输入时程序多次中断。",
  problem_timeout: "服务已放弃：所需时间超过了上限。",
  problem_bug: "程序出错。详情见服务的日志。",
  and: " + ",
};

const STAGES_ZH = { preparing: "准备中", dubbing: "配音中", finishing: "即将完成" };

const UNITS = {
  en: { s: "\u00a0s", min: "\u00a0min", h: "\u00a0h", days: "\u00a0days", ms: "\u00a0ms" },
  zh: { s: "\u00a0秒", min: "\u00a0分钟", h: "\u00a0小时", days: "\u00a0天", ms: "\u00a0毫秒" },
};

const SLOW_MS = 2500;

export const texts = { en: { ...en, ...live.en }, zh: { ...zh, ...live.zh } };
let language = stored() ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
const listeners = [];

function stored() {
  const name = localStorage.getItem("language");
  return name in texts ? name : null;
}

/** Return a text of the present language; texts with values are functions. */
export function t(key, ...values) {
  const text = texts[language][key];
  return typeof text === "function" ? text(...values) : text;
}

/** Call a function after each change of the language. */
export function onLanguage(listener) {
  listeners.push(listener);
}

export function setLanguage(name) {
  localStorage.setItem("language", (language = name));
  writeLanguage();
  for (const listener of listeners) listener();
}

/** Write the fixed texts of the page. */
export function writeLanguage() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", button.dataset.language === language);
  }
  fill(document);
  shown.forEach((error, place) => writeError(place, error));
}

/** Write the fixed texts below an element. */
export function fill(root) {
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of root.querySelectorAll("[data-t-label]")) {
    element.setAttribute("aria-label", t(element.dataset.tLabel));
  }
  for (const element of root.querySelectorAll("[data-t-placeholder]")) {
    element.placeholder = t(element.dataset.tPlaceholder);
  }
}

/** Show an error in the part of the page that it belongs to, or remove it. */
export function showError(root, error) {
  const place = root.matches(".error, .banner") ? root : root.querySelector(":scope > .error");
  place.hidden = !error;
  shown.set(place, error);
  writeError(place, error);
}

const shown = new Map();
/** Codes whose sentence from the service, in English, says more than the text of the page. */
const DETAILED = new Set(["options", "media", "no_face", "weights", "input", "too_large", "died", "timeout", "bug"]);

/** Write an error: the text for its code, and what the sentence of the service adds. */
function writeError(place, error) {
  const text = error && texts[language][`problem_${error.code}`];
  place.textContent = text ?? error?.message ?? "";
  const facts = text && DETAILED.has(error.code) ? factsOf(error.message) : "";
  if (facts) place.append(" ", Object.assign(document.createElement("span"), { lang: "en", textContent: facts }));
}

/** The sentences that help on the page: its options have the names that they have here, and others are not named. */
function factsOf(sentences) {
  const named = sentences.replace(/--(\w+)/g, (flag, name) =>
    document.querySelector(`#options [name="${name}"]`) ? `“${t(name)}”` : flag,
  );
  const useful = named.split(/(?<=[.?]) (?=[A-Z])/).filter((one) => !/--\w|\/v1\/|\/docs|^Send (a|the) /.test(one));
  return useful.join(" ");
}

/** Add a reason to words about what is under way, if it takes seconds. Returns a function that ends the wait. */
export function explainIfSlow(words, reason = "slow") {
  const timer = setTimeout(() => (words.textContent += ` ${t(reason)}`), SLOW_MS);
  return () => clearTimeout(timer);
}

/** Say something to screen readers. */
export function announce(text) {
  document.getElementById("announce").textContent = text;
}

export function number(value, digits = 0) {
  return value.toLocaleString(document.documentElement.lang, { maximumFractionDigits: digits });
}

export function bytes(count) {
  const power = Math.min(4, Math.floor(Math.log(Math.max(count, 1)) / Math.log(1024)));
  return `${number(count / 1024 ** power, power > 1 ? 1 : 0)}\u00a0${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

/** A position: 1:05, or 0:01.2 with tenths. */
export function clock(time, tenths = false) {
  const step = tenths ? 10 : 1;
  const whole = Math.floor(time * step + 1e-6) / step;
  const [minutes, rest] = [Math.floor(whole / 60), whole % 60];
  return `${minutes}:${rest.toFixed(tenths ? 1 : 0).padStart(tenths ? 4 : 2, "0")}`;
}

/** A length of time in its two most useful digits: 4 s, 12 min, 24 h. */
export function duration(time) {
  const units = UNITS[language];
  if (time < 99.5) return number(Math.max(time, 0), time < 9.95 ? 1 : 0) + units.s;
  if (time < 90 * 60) return number(time / 60) + units.min;
  return time < 48.5 * 3600 ? number(time / 3600) + units.h : number(time / 86400) + units.days;
}

/** A frame rate of a report, such as 30000/1001, as a number. */
export function rate(fps) {
  const [above, below = 1] = String(fps).split("/").map(Number);
  return above / below;
}

function seconds(time) {
  return number(time, 1);
}

function milliseconds(frames) {
  return number(Math.abs(frames) * 40) + UNITS[language].ms;
}

function upTo(limits, words) {
  return limits.max_upload ? words + bytes(limits.max_upload) : "";
}
