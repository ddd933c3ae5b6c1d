// Tips at once and on touch, where the browser's own would come late or not at all; without script they remain.
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const marks = [...document.querySelectorAll(".mark")];
  for (const mark of marks) {
    const title = mark.querySelector(":scope > title");
    mark.dataset.tip = title.textContent;
    title.remove();
  }
  const light = (mark) => {
    const key = mark?.dataset.key;
    for (const other of marks) other.classList.toggle("lit", other === mark || (!!key && other.dataset.key === key));
  };
  const show = (event) => {
    const mark = event.target.closest?.(".mark");
    tip.hidden = !mark;
    light(mark);
    if (!mark) return;
    tip.textContent = mark.dataset.tip;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 18}px`;
  };
  document.addEventListener("pointerover", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("focusin", (event) => light(event.target.closest?.(".mark")));
  addEventListener("scroll", () => { tip.hidden = true; light(null); }, { passive: true });
})();

// A click on a candidate shows and copies the command that takes it.
(() => {
  const head = document.querySelector("main").dataset.pick;
  if (!head) return;
  const panel = document.createElement("div");
  panel.id = "pick";
  panel.hidden = true;
  panel.setAttribute("role", "status");
  panel.innerHTML = "<p></p><code></code><button type=button>copy</button><button type=button>close</button>";
  document.body.append(panel);
  const [said, code, copy, close] = panel.children;
  const put = async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      said.textContent = "copied:";
    } catch {
      getSelection().selectAllChildren(code);
      said.textContent = document.execCommand("copy") ? "copied:" : "copy this command:";
    }
  };
  const take = (mark) => {
    code.textContent = `${head} ${mark.dataset.key.slice("candidate-".length)}`;
    panel.hidden = false;
    put();
  };
  copy.addEventListener("click", put);
  close.addEventListener("click", () => { panel.hidden = true; });
  for (const mark of document.querySelectorAll('.mark[data-key^="candidate-"]')) {
    mark.addEventListener("click", () => take(mark));
    if (!mark.closest('[id^="front-"]:not([id$="-dominated"])')) continue;
    mark.setAttribute("tabindex", "0");
    mark.setAttribute("role", "button");
    mark.setAttribute("aria-label", mark.dataset.tip);
    mark.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      take(mark);
    });
  }
  addEventListener("keydown", (event) => { if (event.key === "Escape") panel.hidden = true; });
})();

// A click on a heading sorts by its column, a second one the other way round.
(() => {
  const valueOf = (cell) => {
    const number = Number(cell.dataset.value ?? (cell.textContent.trim().replace(/[,%\s]/g, "") || NaN));
    return Number.isNaN(number) ? cell.textContent : number;
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b
    : typeof a === typeof b ? a.localeCompare(b, undefined, { numeric: true }) : typeof a === "number" ? -1 : 1);
  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    if (body.rows.length < 2) continue;
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent || "notes";
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows];
        rows.sort((a, b) => (down ? -1 : 1) * compare(valueOf(a.cells[column]), valueOf(b.cells[column])));
        body.append(...rows);
      });
    });
  }
})();
