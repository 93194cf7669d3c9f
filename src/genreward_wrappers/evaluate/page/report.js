"use strict";
// The page around the player: tables, picker, keys, theme, and following a folder.

const report = JSON.parse($("report").textContent);
const pictures = JSON.parse($("pictures").textContent);
const label = (name) => report.rewards.find((r) => r.name === name)?.label ?? name;

// ---------------------------------------------------------------------- the picker

const picker = {
  all: report.episodes, // in the order shown
  shown: [],
  current: null,
  details: new Map(), // of the live page: what was fetched lately, by id
};
const player = new Player(report.rewards, report.goals, pictures.goals);
const sheets = pictures.episodes.map((data) => new Sheet(data));

/** The interval of a reward over all episodes. */
function rangeOf(name) {
  const seen = picker.all.map((e) => e.rewards?.[name]).filter((r) => r && known(r.low));
  if (!seen.length) return [0, 0];
  return [Math.min(...seen.map((r) => r.low)), Math.max(...seen.map((r) => r.high))];
}

function kinds() {
  const select = $("kind");
  const chosen = select.value;
  const tally = new Map();
  for (const { kind } of picker.all) if (kind) tally.set(kind, (tally.get(kind) ?? 0) + 1);
  select.replaceChildren(el("option", { value: "" }, "all"), ...[...tally].map(
    ([kind, n]) => el("option", { value: kind }, `${kind} (${n})`)));
  select.value = tally.has(chosen) ? chosen : "";
}

function list() {
  const [kind, outcome] = [$("kind").value, $("outcome").value];
  picker.shown = picker.all.filter((e) => (!kind || e.kind === kind)
    && (!outcome || (!e.error && e.success === (outcome === "yes"))));
  const wins = picker.shown.filter((e) => e.success).length;
  $("count").textContent = picker.shown.length
    ? `${count(picker.shown.length, "episode")}, ${wins} with success`
    : "no episode is like that";
  $("picker").hidden = !picker.all.length;
  $("episodes").hidden = !picker.shown.length;
  $("episodes").replaceChildren(...picker.shown.map((e, i) => {
    const under = [e.kind, e.checkpoint].filter(Boolean).join(" · ");
    const mark = e.error ? ["mark", "unreadable"]
      : e.success ? ["mark yes", "✓ success"] : ["mark", "no success"];
    const item = el("li", { role: "option", id: `option-${i}`, "aria-selected": "false" },
      el("span", { class: "name" }, e.label), el("span", { class: mark[0] }, mark[1]),
      under ? el("span", { class: "kind" }, under) : null);
    item.addEventListener("click", () => choose(e, true));
    return item;
  }));
  highlight(false);
}

function highlight(scroll) {
  const at = picker.shown.indexOf(picker.current);
  const box = $("episodes");
  box.removeAttribute("aria-activedescendant");
  [...box.children].forEach((item, i) => item.setAttribute("aria-selected", i === at));
  if (at < 0) return;
  box.setAttribute("aria-activedescendant", `option-${at}`);
  if (!scroll) return;
  // Not scrollIntoView, which would move the page as well.
  const item = box.children[at];
  const [top, bottom] = [item.offsetTop - box.offsetTop, item.offsetHeight];
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + bottom > box.scrollTop + box.clientHeight) {
    box.scrollTop = top + bottom - box.clientHeight;
  }
}

/** Shows an episode; `byHand` if somebody asked for it. */
async function choose(entry, byHand) {
  picker.current = entry;
  if (byHand && report.live && entry !== newest()) $("follow").checked = false;
  highlight(true);
  $("viewer").hidden = false;
  $("waiting").hidden = true;
  $("episode-label").textContent = entry.label;
  $("playing").hidden = Boolean(entry.error);
  $("problem").hidden = !entry.error;
  $("problem").textContent = entry.error ?? "";
  $("episode-facts").textContent = "";
  if (entry.error) {
    player.pause();
    return;
  }
  $("episode-facts").textContent = [
    entry.kind, entry.checkpoint, count(entry.steps, "step"),
    entry.terminated ? "ended in itself" : "cut by a time limit",
    entry.success ? "success ✓" : "no success",
  ].filter(Boolean).join(" · ");
  try {
    const [episode, sheet] = report.live
      ? await fetched(entry) : [entry, sheets[report.episodes.indexOf(entry)]];
    await sheet.ready();
    // Somebody may have gone on meanwhile.
    if (picker.current === entry) await player.open(episode, sheet, rangeOf);
  } catch (error) {
    if (picker.current !== entry) return;
    $("playing").hidden = true;
    $("problem").hidden = false;
    $("problem").textContent = `This episode could not be shown: ${error.message}`;
  }
}

function turn(by) {
  if (!picker.shown.length) return;
  const at = picker.shown.indexOf(picker.current) + by;
  const within = Math.min(Math.max(at, 0), picker.shown.length - 1);
  if (picker.shown[within] !== picker.current) choose(picker.shown[within], true);
}

function refilter() {
  list();
  if (!picker.shown.includes(picker.current) && picker.shown.length) {
    choose(picker.shown[0], true);
  }
}

// ------------------------------------------------------------------ keys and theme

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const target = event.target;
  if (target.matches("select, textarea, input:not([type=range])")) return;
  if (event.key === " " && target.matches("button, summary, a, input")) return;
  // Up, down, Home and End also scroll the page: they are the player's only inside it.
  const inside = $("inspector").contains(target);
  const open = player.episode && !$("playing").hidden;
  const by = event.shiftKey ? 10 : 1;
  const deeds = {
    n: () => turn(1),
    p: () => turn(-1),
    ...(inside && { ArrowDown: () => turn(1), ArrowUp: () => turn(-1) }),
    ...(open && {
      " ": () => player.toggle(),
      ArrowRight: () => player.take(player.step + by),
      ArrowLeft: () => player.take(player.step - by),
    }),
    ...(open && inside && {
      Home: () => player.take(0),
      End: () => player.take(player.episode.steps),
    }),
  };
  const deed = deeds[event.key];
  if (!deed) return;
  event.preventDefault();
  deed();
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = name === "dark" ? "Light page" : "Dark page";
  player.layout();
  if (player.episode) player.seek(player.step);
}

function wire() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = false;
  theme(document.documentElement.dataset.theme);
  $("theme").addEventListener("click", () => {
    chosen = true;
    theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  });
  dark.addEventListener("change", () => chosen || theme(dark.matches ? "dark" : "light"));
  document.addEventListener("keydown", key);
  $("previous").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  $("kind").addEventListener("change", refilter);
  $("outcome").addEventListener("change", refilter);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) {
      fitFigures();
      learning();
    }
    width = innerWidth;
  });
}

// ------------------------------------------------------------- following a folder

const folder = { since: 0, failed: false };

/** The newest episode that can be shown; newer ones stand above. */
function newest() {
  return picker.all.find((e) => !e.error);
}

async function fetched(entry) {
  const kept = picker.details.get(entry.id);
  if (kept) return kept;
  const answer = await fetch(`episode/${encodeURIComponent(entry.id)}.json`);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  const pair = [body, new Sheet(body.sheet)];
  picker.details.set(entry.id, pair);
  if (picker.details.size > 24) picker.details.delete(picker.details.keys().next().value);
  return pair;
}

async function poll() {
  let more = false;
  try {
    const answer = await fetch(`episodes.json?since=${folder.since}`);
    const news = await answer.json();
    if (!answer.ok) throw new Error(news.error);
    folder.since = news.since;
    folder.failed = false;
    more = news.more;
    if (news.episodes.length || news.gone.length) merge(news);
    status(news);
  } catch {
    folder.failed = true;
    $("live").textContent = "The server does not answer; trying again every 2 seconds.";
  }
  setTimeout(poll, more ? 100 : 2000);
}

function status(news) {
  const left = news.more ? ", reading on" : "";
  const older = news.older ? `; ${count(news.older, "older file")} not listed` : "";
  $("live").textContent = `Looking for new episodes every 2 seconds${left}${older}.`;
  $("waiting").hidden = picker.all.length > 0;
  $("waiting").textContent = report.waiting;
}

function merge(news) {
  const byId = new Map(picker.all.map((e) => [e.id, e]));
  for (const id of news.gone) byId.delete(id);
  for (const entry of news.episodes) {
    byId.set(entry.id, entry);
    picker.details.delete(entry.id);
    for (const name of Object.keys(entry.rewards ?? {})) {
      if (report.rewards.some((r) => r.name === name)) continue;
      report.rewards.push({ name, label: name, role: "reward", about: "" });
    }
  }
  // File names sort by time.
  picker.all = [...byId.values()].sort((a, b) => (a.id < b.id ? 1 : -1));
  const current = picker.current && byId.get(picker.current.id);
  const changed = current && current !== picker.current;
  picker.current = current ?? null;
  kinds();
  list();
  if (!picker.current && !picker.all.length) {
    $("viewer").hidden = true;
    player.pause();
  }
  if (changed) choose(current, false);
  // What plays is watched to its end first.
  else if (!player.running) follow();
}

function follow() {
  if (!report.live) return;
  const latest = newest() ?? picker.all[0];
  const wanted = $("follow").checked || !picker.current;
  if (wanted && latest && latest !== picker.current) choose(latest, false);
}

// --------------------------------------------------------------------------- start

masthead();
verdicts();
metrics();
fitFigures();
confusion();
learning();
notes();
wire();
player.onend = follow;
if (report.live) {
  $("follow-box").hidden = $("live").hidden = false;
  $("follow").addEventListener("change", follow);
  list();
  poll();
} else {
  kinds();
  list();
  choose(picker.shown[0], false);
}
