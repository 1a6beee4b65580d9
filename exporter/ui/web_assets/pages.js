// The landing page and a project's keep themselves up to date, the first sorts and filters by itself; ages go on.
// Without it the same addresses do the same on the server.
"use strict";
(() => {
  const POLL = 2000, RETRY = 10000, PATIENCE = 30000;
  document.documentElement.classList.add("js");

  // -- ages

  // How far this machine's clock is ahead of the exporter's.
  let ahead = Date.now() / 1000 - Number(document.documentElement.dataset.now);

  const age = (seconds) => {
    const rest = Math.max(0, Math.floor(seconds));
    for (const [size, unit, smaller, name] of [[86400, "d", 3600, "h"], [3600, "h", 60, "m"], [60, "m", 1, "s"]]) {
      if (rest >= size) return `${Math.floor(rest / size)}${unit} ${Math.floor((rest % size) / smaller)}${name}`;
    }
    return `${rest}s`;
  };

  const tick = (within) => {
    const now = Date.now() / 1000 - ahead;
    for (const each of within.querySelectorAll("time[data-at]")) {
      const text = age(now - Number(each.dataset.at));
      if (each.textContent !== text) each.textContent = text;
    }
  };
  setInterval(() => { if (!document.hidden) tick(document); }, 1000);

  // -- keeping up

  const say = (element, text) => { if (element.textContent !== text) element.textContent = text; };

  const visible = () => document.hidden
    ? new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }))
    : undefined;

  // Look again and again, but not while nobody does.
  const keepUp = async (look) => {
    const live = document.getElementById("live");
    for (;;) {
      await visible();
      let pause = POLL;
      try {
        await look();
        say(live, "");
      } catch {
        pause = RETRY;
        say(live, "The exporter can’t be reached: this page is no longer up to date.");
      }
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  };

  // The server made this with every text escaped; a parsed document runs no scripts either.
  const parsed = (html) => new DOMParser().parseFromString(html, "text/html");

  const fetched = async (address) => {
    const answer = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    return answer;
  };

  const main = document.querySelector("main[data-live]");
  if (main) {
    keepUp(async () => {
      const page = parsed(await (await fetched(location.href)).text());
      const news = page.querySelector("main");
      ahead = Date.now() / 1000 - Number(page.documentElement.dataset.now);
      tick(main);
      tick(news);
      if (!news.isEqualNode(main)) main.replaceChildren(...news.childNodes);
    });
  }

  const table = document.getElementById("projects");
  if (!table) return;

  // -- what is shown, and in which order

  const body = table.tBodies[0];
  const form = document.getElementById("filter");
  const headings = [...table.tHead.rows[0].cells];
  const shown = document.getElementById("shown");
  const rows = new Map([...body.rows].map((row) => [row.dataset.key, row]));

  const column = () => headings.findIndex((each) => each.dataset.column === form.elements.sort.value);
  const falling = () => form.elements.order.value === "desc";

  const value = (row, index) => {
    const cell = row.cells[index];
    if ("sort" in cell.dataset) return Number(cell.dataset.sort);
    return cell.textContent.toLowerCase();
  };
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

  const sort = () => {
    const index = column(), sign = falling() ? -1 : 1;
    const keyed = [...rows.values()].map((row) => [value(row, index), value(row, 0), value(row, 1), row]);
    keyed.sort((a, b) => sign * compare(a[0], b[0]) || compare(a[1], b[1]) || compare(a[2], b[2])
      || compare(a[3].dataset.key, b[3].dataset.key));
    const ordered = keyed.map((each) => each[3]);
    if (ordered.length !== body.rows.length || ordered.some((row, place) => body.rows[place] !== row)) {
      body.replaceChildren(...ordered);
    }
  };

  const filter = () => {
    const { q, cloud, state } = form.elements;
    const wanted = q.value.trim().toLowerCase();
    let matching = 0;
    for (const row of rows.values()) {
      const hidden = (state.value && row.dataset.state !== state.value)
        || (cloud.value && row.cells[0].textContent !== cloud.value)
        || (wanted && ![row.cells[2], ...row.querySelectorAll("bdi")]
          .some((each) => each.textContent.toLowerCase().includes(wanted)));
      if (row.hidden !== Boolean(hidden)) row.hidden = Boolean(hidden);
      if (!hidden) matching += 1;
    }
    say(shown, `${matching} of ${rows.size} project${rows.size === 1 ? "" : "s"}`);
  };

  const query = (sorted, order) => {
    const parts = new URLSearchParams();
    for (const name of ["q", "cloud", "state"]) {
      const text = form.elements[name].value.trim();
      if (text) parts.set(name, text);
    }
    if (sorted !== "cloud" || order !== "asc") {
      parts.set("sort", sorted);
      parts.set("order", order);
    }
    return `./?${parts}`;
  };

  // The address says what is shown, so that it can be kept, sent and loaded again.
  const note = () => {
    history.replaceState(null, "", query(form.elements.sort.value, form.elements.order.value));
    headings.forEach((each, index) => {
      const name = each.dataset.column, current = index === column();
      const first = "falling" in each.dataset ? "desc" : "asc";
      each.querySelector("a").href = query(name, current ? (falling() ? "asc" : "desc") : first);
      if (current) each.setAttribute("aria-sort", falling() ? "descending" : "ascending");
      else each.removeAttribute("aria-sort");
    });
  };

  table.tHead.addEventListener("click", (event) => {
    const heading = event.target.closest("th");
    if (!event.target.closest("a") || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const again = heading.dataset.column === form.elements.sort.value;
    form.elements.order.value = again ? (falling() ? "asc" : "desc") : ("falling" in heading.dataset ? "desc" : "asc");
    form.elements.sort.value = heading.dataset.column;
    keepingFocus(sort);
    note();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { filter(); note(); });

  // -- what is new

  const focusable = (element) => [...element.querySelectorAll("a")];

  // A row that is moved or renewed would lose the focus that is in it.
  const keepingFocus = (work) => {
    const focused = document.activeElement;
    const row = focused?.closest("#projects tbody tr");
    const place = row ? focusable(row).indexOf(focused) : -1;
    const tile = focused?.closest("#overview") ? focused.getAttribute("href") : null;
    work();
    if (document.activeElement === focused) return;
    const again = focused.isConnected ? focused
      : row ? focusable(rows.get(row.dataset.key) ?? body)[place]
      : tile ? focusable(document.getElementById("overview")).find((each) => each.getAttribute("href") === tile)
      : null;
    again?.focus({ preventScroll: true });
  };

  const renew = (row) => {
    const before = rows.get(row.dataset.key);
    if (!before) {
      rows.set(row.dataset.key, row);
      return;
    }
    before.dataset.state = row.dataset.state;
    [...row.cells].forEach((cell, index) => {
      if (before.cells[index].outerHTML !== cell.outerHTML) before.cells[index].replaceWith(cell);
    });
  };

  // A configuration that is read anew may bring other clouds.
  const offer = () => {
    const select = form.elements.cloud, chosen = select.value;
    const names = [...document.querySelectorAll("#overview .clouds th bdi")].map((each) => each.textContent);
    if (chosen && !names.includes(chosen)) names.push(chosen);
    if (names.join("\n") === [...select.options].slice(1).map((each) => each.value).join("\n")) return;
    select.replaceChildren(select.options[0], ...names.map((name) => new Option(name, name)));
    select.value = chosen;
  };

  const take = (news) => {
    version = news.version;
    ahead = Date.now() / 1000 - news.now;
    const found = [...parsed(`<table><tbody>${news.rows}</tbody></table>`).querySelectorAll("tr")];
    keepingFocus(() => {
      if (news.full) {
        const keys = new Set(found.map((row) => row.dataset.key));
        for (const key of rows.keys()) if (!keys.has(key)) rows.delete(key);
      }
      for (const key of news.gone) rows.delete(key);
      for (const row of found) renew(document.adoptNode(row));
      if (news.overview) {
        document.getElementById("overview").replaceChildren(...parsed(news.overview).body.childNodes);
        offer();
      }
      sort();
      filter();
    });
    tick(document);
  };

  let version = "partial" in table.dataset ? "" : table.dataset.version;
  keepUp(async () => {
    const answer = await fetched(`./updates?since=${encodeURIComponent(version)}`);
    if (answer.status !== 204) take(await answer.json());
  });
})();
