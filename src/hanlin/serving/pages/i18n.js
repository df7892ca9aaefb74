// Every word of the chat page in English and Chinese, and the choice between them.

import { remember } from "./store.js";
import { ANNOTATION } from "./i18n_annotate.js";

/** key: [English, Chinese]; {name} is filled in. */
export const WORDS = {
  // Page
  skip: ["Skip to the message field", "跳到输入框"],
  history: ["Conversations", "对话列表"],
  newChat: ["New conversation", "新对话"],
  searchHistory: ["Search conversations", "搜索对话"],
  conversation: ["Conversation", "对话"],
  jump: ["To the latest message", "回到最新消息"],
  yourMessage: ["Your message", "你的消息"],
  ask: ["Write a message", "写点什么"],
  canBeWrong: ["Answers can be wrong. Check what matters.", "回答可能有误，重要信息请核实。"],
  enterSends: ["Enter sends, Shift + Enter begins a new line", "Enter 发送，Shift + Enter 换行"],
  undecided: ["Choose the better answer, or write on from answer A", "请选择更好的回答；直接继续则沿用回答 A"],
  greeting: ["What would you like to know?", "想聊点什么？"],
  keptHere: ["Conversations are kept in this browser, and nowhere else unless you send feedback.", "对话只保存在这个浏览器里；只有当你提交反馈时才会发送到别处。"],
  notPersistent: ["This browser keeps no data for this page: conversations end with the tab.", "此浏览器不允许本页保存数据：关闭标签页后对话即消失。"],
  close: ["Close", "关闭"],
  cancel: ["Cancel", "取消"],
  send: ["Send", "提交"],
  delete: ["Delete", "删除"],
  table: ["Table", "表格"],
  formula: ["Formula", "公式"],
  mathSource: ["Source of a formula that cannot be set", "无法排版的公式源码"],
  taskDone: ["Done", "已完成"],
  taskOpen: ["To do", "待办"],
  plainText: ["text", "文本"],
  codeIn: ["Code: {language}", "代码：{language}"],
  // Messages
  you: ["You", "你"],
  assistant: ["Assistant", "助手"],
  youSaid: ["You wrote", "你写道"],
  answered: ["{name} answered", "{name} 的回答"],
  yourVersion: ["Your version", "你的版本"],
  thinking: ["Thinking …", "思考中……"],
  thought: ["Reasoning", "思考过程"],
  thoughtFor: ["Thought for {seconds} s", "思考了 {seconds} 秒"],
  toolCall: ["Tool call", "调用工具"],
  actions: ["Actions", "操作"],
  copy: ["Copy", "复制"],
  copyCode: ["Copy code", "复制代码"],
  copyMessage: ["Copy message (C)", "复制消息 (C)"],
  copied: ["Copied", "已复制"],
  copyFailed: ["Could not copy", "复制失败"],
  editMessage: ["Edit (E)", "编辑 (E)"],
  sendAsBranch: ["Send as a new branch", "作为新分支发送"],
  regenerate: ["Answer again (R)", "重新回答 (R)"],
  goodAnswer: ["Good answer", "回答得好"],
  badAnswer: ["Bad answer", "回答得不好"],
  improve: ["Write a better answer", "写一个更好的回答"],
  versions: ["Versions", "版本"],
  earlierVersion: ["Earlier version (←)", "上一版本 (←)"],
  laterVersion: ["Later version (→)", "下一版本 (→)"],
  sendMessage: ["Send", "发送"],
  stop: ["Stop (Esc)", "停止 (Esc)"],
  finish_stopped: ["You stopped this answer.", "你停止了这个回答。"],
  finish_length: ["The answer ended at the length limit.", "回答因达到长度上限而结束。"],
  finish_content_filter: ["The server's content rules ended this answer.", "服务器的内容规则中止了这个回答。"],
  oneToken: ["1 token", "1 个 token"],
  tokens: ["{count} tokens", "{count} 个 token"],
  speed: ["{speed} tokens/s", "{speed} token/秒"],
  firstAfter: ["first after {seconds} s", "首字 {seconds} 秒"],
  promptTokens: ["{count} in the prompt", "提示 {count} 个"],
  finishedAnnounced: ["The answer is finished. {text}", "回答完毕。{text}"],
  failedAnnounced: ["The answer failed.", "回答失败。"],
  // Errors
  retry: ["Try again", "重试"],
  retryNow: ["Try now", "立即重试"],
  waitingFor: ["The server has too much to do. Trying again in {seconds} s.", "服务器繁忙，{seconds} 秒后自动重试。"],
  error__2: ["This answer was interrupted when the page closed.", "页面关闭时这个回答被中断。"],
  error__1: ["The answer could not be read.", "无法读取回答。"],
  error_0: ["The server cannot be reached, or the connection was cut.", "无法连接服务器，或连接已中断。"],
  error_400: ["The server refused the request.", "服务器拒绝了请求。"],
  error_401: ["The server wants a valid key.", "服务器需要有效的密钥。"],
  error_403: ["The server does not allow that.", "服务器不允许此操作。"],
  error_404: ["The server does not know this model.", "服务器没有这个模型。"],
  error_413: ["The conversation is too large for the server.", "对话过长，超出服务器限制。"],
  error_429: ["Too many requests for now.", "请求过于频繁，请稍候。"],
  error_500: ["The server failed.", "服务器出错。"],
  error_503: ["The server is not ready.", "服务器尚未就绪。"],
  noModels: ["The server has no model.", "服务器上没有模型。"],
  // Feedback
  whatWasGood: ["What was good?", "好在哪里？"],
  whatWasBad: ["What was wrong?", "哪里不好？"],
  tags: ["What applies", "适用的标签"],
  reason: ["In your words (optional)", "说说原因（可选）"],
  tag_correct: ["correct", "正确"],
  tag_helpful: ["helpful", "有帮助"],
  tag_clear: ["clear", "清楚"],
  tag_complete: ["complete", "完整"],
  tag_wrong: ["wrong", "有错误"],
  tag_invented: ["made up", "凭空编造"],
  tag_unhelpful: ["not helpful", "没有帮助"],
  tag_ignored: ["ignored what I asked", "没按要求做"],
  tag_unclear: ["unclear", "不清楚"],
  tag_unsafe: ["harmful", "有害"],
  consent: ["Keep this and use it to improve the model", "允许保存并用于改进模型"],
  consentWhat: ["What does this allow?", "这允许什么？"],
  consentExplained: [
    "With the tick, the conversation up to this answer and what you add here are kept by the operator of this server, who may train models on them. Personal data is removed as far as it is recognised. Without it nothing is sent. You can take it back.",
    "勾选后，到此回答为止的对话以及你补充的内容会由本服务器的运营者保存，并可用于训练模型；能识别的个人信息会被去除。不勾选则什么都不会提交。你可以撤回。",
  ],
  consentNeeded: ["Without this tick nothing is sent or kept.", "不勾选则不会提交或保存任何内容。"],
  keptLocal: ["Noted here; nothing was sent, since the tick was not set.", "已在此记下；因未勾选同意，没有提交任何内容。"],
  wouldBeBetter: ["This would be better:", "这样更好："],
  sendVersion: ["Send this version", "提交此版本"],
  changeSomething: ["Change the answer first.", "请先修改回答。"],
  thanks: ["Thank you.", "谢谢反馈。"],
  withdraw: ["Take it back", "撤回"],
  notSent: ["Not sent: {why}", "未提交：{why}"],
  notWithdrawn: ["Not taken back: {why}", "未撤回：{why}"],
  // Comparison
  compare: ["Compare two models side by side", "并排比较两个模型"],
  model: ["Model", "模型"],
  firstModel: ["First model", "第一个模型"],
  secondModel: ["Second model", "第二个模型"],
  versus: ["and", "与"],
  answerA: ["Answer A", "回答 A"],
  answerB: ["Answer B", "回答 B"],
  whichBetter: ["Which answer is better?", "哪个回答更好？"],
  aBetter: ["A is better", "A 更好"],
  bBetter: ["B is better", "B 更好"],
  tie: ["Equally good", "不分上下"],
  whyOptional: ["Why? (optional)", "为什么？（可选）"],
  blind: ["The order was drawn by lot; the names appear when you have chosen.", "左右顺序随机；选择之后才显示模型名称。"],
  wasPreferred: ["preferred by you", "你更喜欢这个"],
  wasNotPreferred: ["you preferred the other", "你更喜欢另一个"],
  wasTie: ["equally good, you said", "你认为不分上下"],
  // Settings
  settings: ["Settings of this conversation", "本对话的设置"],
  systemPrompt: ["System prompt", "系统提示"],
  systemHint: ["Sent before the conversation: who the model is and how it should answer.", "在对话之前发送：模型的身份与回答方式。"],
  systemExample: ["You are a patient teacher. Answer in short sentences.", "你是一位耐心的老师，请用简短的句子回答。"],
  sampling: ["Sampling", "采样"],
  samplingHint: ["An empty field leaves the choice to the server.", "留空则由服务器决定。"],
  default: ["default", "默认"],
  resetSettings: ["Back to the server's defaults", "恢复服务器默认值"],
  setting_temperature: ["Temperature", "温度"],
  hint_temperature: ["0 takes the likeliest token each time; higher is more varied.", "0 总取最可能的词；越高越多样。"],
  setting_top_p: ["Top p", "Top p"],
  hint_top_p: ["Only the likeliest tokens that together hold this probability.", "只在累计概率达到该值的词中选取。"],
  setting_min_p: ["Min p", "Min p"],
  hint_min_p: ["Only tokens at least this fraction as likely as the likeliest.", "只取概率不低于最高者这一比例的词。"],
  setting_top_k: ["Top k", "Top k"],
  hint_top_k: ["Only the k likeliest tokens; 0: all.", "只取最可能的 k 个词；0 为不限。"],
  setting_max_completion_tokens: ["Longest answer", "最大长度"],
  hint_max_completion_tokens: ["In tokens.", "以 token 计。"],
  setting_seed: ["Seed", "随机种子"],
  hint_seed: ["The same seed and question give the same answer.", "种子与问题相同，回答也相同。"],
  setting_presence_penalty: ["Presence penalty", "出现惩罚"],
  hint_presence_penalty: ["Lowers tokens that have occurred.", "降低已出现过的词。"],
  setting_frequency_penalty: ["Frequency penalty", "频率惩罚"],
  hint_frequency_penalty: ["Lowers tokens by how often they have occurred.", "按出现次数降低相应的词。"],
  setting_repetition_penalty: ["Repetition penalty", "重复惩罚"],
  hint_repetition_penalty: ["Divides the scores of tokens that have occurred; 1: off.", "将已出现的词的得分除以该值；1 为关闭。"],
  setting_stop: ["Stop strings", "停止字符串"],
  hint_stop: ["One a line; \\n stands for a line break.", "每行一个；\\n 表示换行。"],
  // History
  today: ["Today", "今天"],
  yesterday: ["Yesterday", "昨天"],
  lastWeek: ["The last seven days", "最近七天"],
  older: ["Older", "更早"],
  noHistory: ["No conversations yet.", "还没有对话。"],
  nothingFound: ["Nothing found.", "没有找到。"],
  untitled: ["Untitled", "未命名"],
  conversationMenu: ["Menu of “{name}”", "“{name}”的菜单"],
  rename: ["Rename", "重命名"],
  exportJson: ["Save as JSON", "保存为 JSON"],
  exportMarkdown: ["Save as Markdown", "保存为 Markdown"],
  exportAll: ["Save all conversations", "导出全部对话"],
  importFile: ["Open saved conversations", "导入对话"],
  imported: ["Conversations added: {count}", "已导入对话：{count}"],
  notImported: ["{name} cannot be read as saved conversations: {why}", "{name} 不是有效的对话文件：{why}"],
  fileTooLarge: ["it is larger than 100 MB", "文件超过 100 MB"],
  notKept: ["The browser could not keep the conversation: {why}", "浏览器无法保存对话：{why}"],
  deleteTitle: ["Delete this conversation?", "删除这个对话？"],
  deleteText: ["“{name}” is removed from this browser for good.", "“{name}”将从此浏览器中永久删除。"],
  theme_auto: ["Light or dark: as the system", "外观：跟随系统"],
  theme_light: ["Light", "外观：浅色"],
  theme_dark: ["Dark", "外观：深色"],
  // Key
  keyTitle: ["Server key", "服务器密钥"],
  keyAsked: ["This server answers to people with a key. Its operator gives you one.", "此服务器需要密钥，请向运营者索取。"],
  keyRefused: ["The server refused the key.", "服务器拒绝了该密钥。"],
  key: ["Key", "密钥"],
  keepKey: ["Keep it on this device", "保存在此设备上"],
  keyKept: ["Otherwise it is forgotten when the tab closes.", "否则关闭标签页后即忘记。"],
  useKey: ["Use this key", "使用此密钥"],
  // Shortcuts
  shortcuts: ["Keyboard shortcuts", "键盘快捷键"],
  keySend: ["Send", "发送"],
  keyLine: ["New line", "换行"],
  keyStop: ["Stop the answer, close", "停止回答、关闭"],
  keyFocus: ["To the message field", "跳到输入框"],
  keyEditLast: ["In an empty field: edit your last message", "输入框为空时：编辑上一条消息"],
  keyMessages: ["On a message: to the one before or after", "选中消息时：上一条、下一条"],
  keyVersions: ["On a message: its other versions", "选中消息时：切换版本"],
  keyActions: ["On a message: copy, edit, answer again", "选中消息时：复制、编辑、重新回答"],
  keyChoose: ["In a comparison: A, B, equally good", "比较时：A、B、不分上下"],
  ...ANNOTATION,
};

const listeners = [];
let current = document.documentElement.lang.startsWith("zh") ? "zh" : "en";

export function language() {
  return current;
}

/** Changes the language of the page and remembers it. */
export function setLanguage(name) {
  current = name;
  document.documentElement.lang = name === "zh" ? "zh-Hans" : "en";
  remember("language", name);
  for (const listener of listeners) listener();
}

export function onLanguage(listener) {
  listeners.push(listener);
}

/** The words for a key. Throws for a key that does not exist. */
export function t(key, values = {}) {
  const words = WORDS[key];
  if (!words) throw new Error(`no words for ${key}`);
  return words[current === "zh" ? 1 : 0].replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

/** Fills in the words of the elements that name them: data-t (text), data-t-label (name), data-t-placeholder. */
export function translate(root) {
  for (const element of root.querySelectorAll("[data-t]")) {
    const kept = element.querySelector(":scope > svg");
    element.textContent = t(element.dataset.t);
    if (kept) element.prepend(kept);
  }
  for (const element of root.querySelectorAll("[data-t-label]")) {
    element.setAttribute("aria-label", t(element.dataset.tLabel));
    if (element.matches("button, input")) element.title = t(element.dataset.tLabel);
  }
  for (const element of root.querySelectorAll("[data-t-placeholder]")) element.placeholder = t(element.dataset.tPlaceholder);
}


