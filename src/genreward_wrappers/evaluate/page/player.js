"use strict";
// One episode in time. The state is a step; video, goal, cursor and matrix follow it.

class Sheet {
  /** Frames in one picture; decoded when first needed. */
  constructor(data) {
    this.data = data;
    this.image = null;
  }

  async ready() {
    if (this.image) return;
    const image = new Image();
    image.src = this.data.src;
    await image.decode();
    this.image = image;
  }

  draw(canvas, index) {
    const [width, height] = this.data.size;
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const [tall, wide] = [this.data.tile[1], this.data.tile[0]];
    const column = index % this.data.columns;
    const row = Math.floor(index / this.data.columns);
    canvas.getContext("2d").drawImage(
      this.image, column * wide, row * tall, width, height, 0, 0, width, height);
    canvas.dataset.frame = index;
  }
}

const calm = matchMedia("(prefers-reduced-motion: reduce)");

class Player {
  constructor(rewards, goals, sheets) {
    this.rewards = rewards;
    this.goals = goals;
    this.goalSheets = sheets.map((data) => new Sheet(data));
    this.episode = null;
    this.step = 0;
    this.running = false;
    // Whether the next episode plays when it is chosen: until someone stops it.
    this.eager = !calm.matches;
    this.panels = [];
    this.matrices = {};
    this.onend = () => {};
    this._listen();
  }

  /** Shows an episode with its `detail`; `range` gives each reward's own. */
  async open(episode, sheet, range) {
    const share = this.share;
    this.pause();
    await Promise.all([sheet.ready(), this._goalOf(episode)?.sheet.ready()]);
    this.episode = episode;
    this.sheet = sheet;
    this.range = range;
    this.matrices = Object.fromEntries(Object.entries(episode.matrix)
      .map(([name, packed]) => [name, unpackMatrix(packed)]));
    $("scrub").max = episode.steps;
    this._openGoal();
    this._openMatrices();
    this.layout();
    // Held still, another episode is compared at the same share of its time.
    this.seek(this.eager ? 0 : Math.round(share * episode.steps));
    if (this.eager) this.play();
  }

  get share() {
    return this.episode && this.episode.steps ? this.step / this.episode.steps : 0;
  }

  seek(step) {
    const { steps, frame_steps: seen, terminated } = this.episode;
    this.step = Math.min(Math.max(step, 0), steps);
    let frame = 0;
    while (frame + 1 < seen.length && seen[frame + 1] <= this.step) frame++;
    this.sheet.draw($("agent"), frame);
    $("agent-note").textContent = seen[frame] === this.step
      ? `frame ${frame + 1} of ${seen.length}`
      : `frame ${frame + 1} of ${seen.length}, seen after step ${seen[frame]}`;
    if (this.goal) {
      const index = Math.round(this.share * (this.goal.frames - 1));
      this.goal.sheet.draw($("goal"), index);
      $("goal-note").textContent = `${this.goal.note}, frame ${index + 1} of ${this.goal.frames}`;
    }
    $("scrub").value = this.step;
    $("scrub").setAttribute("aria-valuetext", `step ${this.step} of ${steps}`);
    $("counter").textContent = `step ${this.step} of ${steps}`;
    const won = this.episode.success_steps.some(([a, b]) => a <= this.step && this.step <= b);
    $("agent-note").textContent += won ? " · success ✓" : "";
    for (const panel of this.panels) panel.show(this.step);
    if (this.cursor) this.cursor.style.transform = `translateX(${this.x(this.step)}px)`;
    this._moveMatrixCursor();
    if (this.step === steps && this.running) {
      this.pause();
      this.onend(terminated);
    }
  }

  /** As seek, by hand: from here on nothing plays by itself. */
  take(step) {
    this.eager = false;
    this.pause();
    this.seek(step);
  }

  toggle() {
    this.eager = !this.running;
    if (this.running) this.pause();
    else this.play();
  }

  play() {
    if (this.step >= this.episode.steps) this.seek(0);
    this.running = this.episode.steps > 0;
    this._button();
    let before = null;
    let owed = 0;
    const tick = (now) => {
      if (this.ticking !== tick || !this.running) return;
      // An episode takes about seven seconds, however many steps it has.
      const pace = Math.max(this.episode.steps / 7, 4) * Number($("speed").value);
      owed += before === null ? 0 : (Math.min(now - before, 250) * pace) / 1000;
      before = now;
      const due = Math.floor(owed);
      owed -= due;
      if (due) this.seek(this.step + due);
      requestAnimationFrame(tick);
    };
    this.ticking = tick;
    requestAnimationFrame(tick);
  }

  pause() {
    this.running = false;
    this._button();
  }

  /** Draws the curves anew for the width there is. */
  layout() {
    const { episode } = this;
    if (!episode) return;
    const box = $("curves");
    const width = Math.max(box.clientWidth, 200);
    this.x = stepScale(episode.steps, width);
    this.panels = this.rewards.map((info) => curvePanel(
      info, episode.curves[info.name] ?? [], episode.rewards[info.name]?.sum,
      this.range(info.name), episode, width));
    this.cursor = el("div", { class: "cursor" });
    box.replaceChildren(
      ...(episode.success_steps.length ? [successRow(episode, width)] : []),
      ...this.panels.map((panel) => panel.node), stepAxis(episode, width), this.cursor);
    this._drawMatrix();
  }

  _goalOf(episode) {
    // A recorded episode may not say which, or name one that is not here: then the first
    // is shown, and called just that.
    const named = episode.goal in this.goals;
    if (!named && !(report.live && this.goals.length)) return null;
    const index = named ? episode.goal : 0;
    const note = named
      ? `video ${index + 1} of ${this.goals.length}`
      : `the first of ${this.goals.length}; the episode names none`;
    return { ...this.goals[index], sheet: this.goalSheets[index], note };
  }

  _openGoal() {
    this.goal = this._goalOf(this.episode);
    $("goal-figure").hidden = $("key-figure").hidden = !this.goal;
    if (!this.goal) return;
    this.goal.sheet.draw($("key"), this.goal.key_frame);
    $("key-note").textContent = `of the goal, frame ${this.goal.key_frame + 1}`;
  }

  _openMatrices() {
    const names = Object.keys(this.matrices);
    $("similarity").hidden = !names.length;
    document.querySelector(".evidence").classList.toggle("alone", !names.length);
    const choice = $("matrix-choice");
    const chosen = names.includes(choice.value) ? choice.value : names[0];
    const label = (name) => this.rewards.find((r) => r.name === name)?.label ?? name;
    choice.replaceChildren(...names.map((name) => el("option", { value: name }, label(name))));
    if (names.length) choice.value = chosen;
  }

  _drawMatrix() {
    this.matrix = this.matrices[$("matrix-choice").value];
    if (!this.matrix) return;
    const canvas = $("matrix").querySelector("canvas");
    drawMatrix(canvas, this.matrix);
    canvas.setAttribute("aria-label", "Latent similarity of episode and goal over time, "
      + `from ${number(this.matrix.low)} to ${number(this.matrix.high)}`);
    const colour = ramp();
    const stops = [0, 0.25, 0.5, 0.75, 1].map((at) => `rgb(${colour(at)})`);
    $("matrix-bar").style.background = `linear-gradient(to right, ${stops})`;
    $("matrix-low").textContent = number(this.matrix.low);
    $("matrix-high").textContent = number(this.matrix.high);
    this._moveMatrixCursor();
  }

  _moveMatrixCursor() {
    const { matrix, share } = this;
    if (!matrix) return;
    // Through the middle of a cell.
    const middle = (n) => (100 * (Math.round(share * (n - 1)) + 0.5)) / n;
    const box = $("matrix");
    box.querySelector(".across").style.left = `${middle(matrix.rows)}%`;
    box.querySelector(".along").style.top = `${100 - middle(matrix.columns)}%`;
    $("matrix-note").textContent = `${number(matrix.at(share, share))} at the cursor`;
  }

  _button() {
    $("play").textContent = this.running ? "❚❚ Pause" : "▶ Play";
  }

  _listen() {
    $("play").addEventListener("click", () => this.toggle());
    $("scrub").addEventListener("input", (event) => this.take(Number(event.target.value)));
    $("matrix-choice").addEventListener("change", () => this._drawMatrix());
    this._drag($("curves"), (event, box) => {
      const inside = box.width - LEFT - RIGHT;
      return (event.clientX - box.left - LEFT) / inside;
    });
    this._drag($("matrix"), (event, box) => {
      const n = this.matrix.rows;
      const cell = Math.floor(((event.clientX - box.left) / box.width) * n);
      return n > 1 ? cell / (n - 1) : 0;
    });
    let width = 0;
    new ResizeObserver(([entry]) => {
      if (!this.episode || Math.abs(entry.contentRect.width - width) < 1) return;
      width = entry.contentRect.width;
      this.layout();
      this.seek(this.step);
    }).observe($("curves"));
  }

  _drag(node, share) {
    const move = (event) => {
      if (!this.episode) return;
      const at = share(event, node.getBoundingClientRect());
      this.take(Math.round(Math.min(Math.max(at, 0), 1) * this.episode.steps));
    };
    node.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      node.setPointerCapture(event.pointerId);
      move(event);
    });
    node.addEventListener("pointermove", (event) => {
      if (node.hasPointerCapture(event.pointerId)) move(event);
    });
  }
}
