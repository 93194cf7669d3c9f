"use strict";
// The header and the tables around the player.

function masthead() {
  $("title").textContent = report.title;
  $("prompt").textContent = `“${report.prompt}”`;
  $("prompt").hidden = !report.prompt;
  const facts = Object.entries(report.facts);
  $("facts").hidden = !facts.length;
  $("facts").querySelector("dl").append(...facts.map(([name, text]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, text))));
}

/** Unhides a section that has something to show; returns the box for it. */
function section(id, things, inside) {
  $(id).hidden = !things;
  return $(id).querySelector(inside);
}

function verdicts() {
  const list = section("verdicts", report.verdicts.length, ".verdicts");
  for (const verdict of report.verdicts) {
    const info = report.rewards.find((r) => r.name === verdict.reward);
    const findings = verdict.findings ?? [];
    const item = el("li", {},
      el("p", { class: "whose" },
        el("span", { class: `level ${verdict.level}` }, verdict.level),
        el("b", {}, label(verdict.reward)),
        info && info.role !== "reward" ? el("span", { class: "role" }, info.role) : null),
      el("p", { class: "headline" }, verdict.headline));
    if (findings.length) {
      const more = el("details", {}, el("summary", {}, count(findings.length, "finding")),
        el("ul", {}, ...findings.map((text) => el("li", {}, text))));
      // On a small screen all verdicts come before any finding.
      more.open = verdict === report.verdicts[0] && innerWidth > 760;
      item.append(more);
    }
    list.append(item);
  }
}

/** The groups of figures that there are, with those that belong to none at the end. */
function groups(names) {
  const grouped = Object.entries(report.metric_groups).map(([title, words]) =>
    [title, Object.keys(words).filter((name) => names.has(name))]);
  const seen = new Set(grouped.flatMap(([, members]) => members));
  const rest = [...names].filter((name) => !seen.has(name));
  return [...grouped, ["Other figures", rest]].filter(([, members]) => members.length);
}

function metrics() {
  const columns = report.rewards.filter((r) => report.metrics[r.name]);
  const box = section("metrics", columns.length, ".figures");
  const names = new Set(columns.flatMap((r) => Object.keys(report.metrics[r.name])));
  const words = Object.assign({}, ...Object.values(report.metric_groups));
  const head = el("tr", {}, el("td", {}), ...columns.map((r) =>
    el("th", { scope: "col" }, r.label,
      r.role === "reward" ? null : el("span", { class: "role" }, ` ${r.role}`))));
  const bodies = groups(names).map(([title, members]) => el("tbody", {},
    el("tr", { class: "group" },
      el("th", { scope: "rowgroup", colspan: columns.length + 1 }, title)),
    ...members.map((name) => metricRow(name, words[name] ?? name, columns))));
  box.append(el("table", { "data-columns": columns.length },
    el("caption", {}, "Dot and line: the value and its interval, on one scale along a "
      + "row. Point at a name to see what --fail-below and report.json call it."),
    el("thead", {}, head), ...bodies));
}

/** Puts values one below the other where they do not fit side by side. */
function fitFigures() {
  for (const table of document.querySelectorAll(".figures table")) {
    const wanted = 260 + 130 * Number(table.dataset.columns);
    table.classList.toggle("stacked", innerWidth < wanted);
  }
}

function metricRow(name, said, columns) {
  const entries = columns.map((r) => report.metrics[r.name][name]);
  const seen = entries.filter((e) => known(e?.value))
    .flatMap((e) => [e.value, e.low, e.high].filter(known));
  const range = [Math.min(...seen), Math.max(...seen)];
  return el("tr", {},
    el("th", { scope: "row", title: name }, el("b", {}, said),
      report.metric_notes[name] ?? ""),
    ...entries.map((entry, i) => metricCell(entry, range, columns[i].label)));
}

function metricCell(entry, range, whose) {
  // Where there is no room for columns, each value says whose it is.
  const cell = el("td", { "data-of": whose });
  if (!known(entry?.value)) {
    const why = entry ? entry.flag || "no value" : "not measured";
    cell.append(el("span", { class: "undefined" }, entry ? `undefined: ${why}` : why));
    return cell;
  }
  const spread = el("span", { class: "spread" });
  if (known(entry.low) && known(entry.high)) {
    spread.append(el("span", {}, `${number(entry.low)} to ${number(entry.high)}`));
  }
  if (known(entry.n)) spread.append(el("span", {}, `n = ${entry.n}`));
  cell.append(
    el("span", { class: "value" }, number(entry.value)), whisker(entry, range), spread);
  if (entry.flag) cell.append(el("span", { class: "flag" }, entry.flag));
  return cell;
}

/** The last part of an environment's id. */
const task = (id) => id.split("/").at(-1);

function confusion() {
  const all = Object.entries(report.confusion);
  const box = section("confusion", all.length, ".tables");
  for (const [name, table] of all) {
    const cells = table.matrix.flat().filter(known);
    const [low, high] = [Math.min(...cells), Math.max(...cells)];
    const head = el("tr", {}, el("td", {}),
      ...table.goals.map((goal) => el("th", { scope: "col", title: goal }, task(goal))));
    const rows = table.matrix.map((row, i) => {
      const top = Math.max(...row.filter(known));
      return el("tr", {}, el("th", { scope: "row", title: table.tasks[i] }, task(table.tasks[i])),
        ...row.map((value, j) => {
          const share = high > low && known(value) ? (value - low) / (high - low) : 0;
          const own = table.tasks[i] === table.goals[j];
          const cell = el("td", {
            class: [value === top ? "top" : "", own ? "own" : ""].join(" "),
          }, number(value), value === top ? el("small", {}, " max") : null);
          // A wash that text stays readable on, whatever the value.
          cell.style.background =
            `color-mix(in srgb, var(--curve) ${Math.round(20 * share)}%, transparent)`;
          return cell;
        }));
    });
    const figures = [
      known(table.diagonal_minus_off)
        ? `own goal minus others: ${number(table.diagonal_minus_off)}` : "",
      known(table.argmax_accuracy)
        ? `own goal is the largest: ${Math.round(100 * table.argmax_accuracy)} % of tasks` : "",
    ].filter(Boolean).join(" · ");
    box.append(el("div", { class: "heat" }, el("h3", {}, label(name)),
      el("p", { class: "small" }, figures),
      el("div", { class: "scroll", tabindex: "0", role: "region",
        "aria-label": `Tasks against goals, ${label(name)}` },
        el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)))));
  }
}

function learning() {
  const box = section("learning", report.learning.length, ".runs");
  box.replaceChildren();
  for (const name of new Set(report.learning.map((run) => run.reward))) {
    const runs = report.learning.filter((run) => run.reward === name);
    const lines = (key) => runs.map((run) => {
      const points = run.steps.map((step, i) => [step, run[key]?.[i]])
        .filter(([, value]) => known(value));
      return { label: `seed ${run.seed}`, points, end: points.at(-1)?.[1] };
    });
    const returns = lines("return");
    const values = returns.flatMap((line) => line.points.map((p) => p[1]));
    const group = el("div", { class: "learn" }, el("h3", {}, label(name)));
    box.append(group);
    const widths = getComputedStyle(group).gridTemplateColumns.split(" ").map(parseFloat);
    group.append(runsChart("Share of successes", lines("success"), [0, 1], widths[0]));
    if (values.length) {
      const range = [Math.min(...values), Math.max(...values)];
      group.append(runsChart("Return under this reward", returns, range, widths[0]));
    }
    for (const run of runs.filter((r) => r.verdict)) {
      group.append(el("p", { class: "said" }, `Seed ${run.seed}: ${run.verdict}`));
    }
  }
}

function notes() {
  section("notes", report.notes.length, ".notes")
    .append(...report.notes.map((text) => el("li", {}, text)));
}
