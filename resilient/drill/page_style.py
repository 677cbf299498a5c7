"""How the page looks: light, dark, narrow, printed.  Text on every colour has a contrast of at
least 4.5 : 1 (WCAG 2.2, 1.4.3)."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--ink:#1f2933;--soft:#52606d;--line:#d5dbe1;
--up:#bfe3cd;--writer:#a9cff2;--suspect:#f6d98b;--dead:#f2b1aa;--unknown:#e0e4e9;--gone:#eef0f3;
--ok:#1b7f4d;--okb:#2563b8;--doubt:#8f5a00;--bad:#b3221a;--mark:#3e4c59;--focus:#0b57d0;--gutter:9.5rem}
@media (prefers-color-scheme:dark){:root{--bg:#14181d;--ink:#e6eaef;--soft:#a3afbb;--line:#37414c;
--up:#1f5a3b;--writer:#1d4f80;--suspect:#6b5210;--dead:#7f2c26;--unknown:#3a444f;--gone:#262e36;
--ok:#5fcf96;--okb:#82b4f5;--doubt:#e6ae45;--bad:#ff8f86;--mark:#b8c2cc;--focus:#8ab4f8}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif;
color:var(--ink);background:var(--bg);max-width:72rem;margin:0 auto;padding:1.2rem}
h1{font-size:1.5rem;margin:0 0 .3rem}h2{font-size:1.15rem;margin:0}
h3{font-size:1rem;margin:0 0 .3rem}
p{margin:.3rem 0}section{margin:1.6rem 0 0}code{font-size:.93em;overflow-wrap:anywhere}
.bad{color:var(--bad);font-weight:600}.fine{color:var(--ok);font-weight:600}
.more{color:var(--soft)}
.facts{color:var(--soft);margin:.3rem 0;padding:0;list-style:none;display:flex;flex-wrap:wrap;
gap:0 1.2rem}
dl{margin:0;display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem}
dt{color:var(--soft)}dd{margin:0;min-width:0;overflow-wrap:anywhere}
table{border-collapse:collapse;margin:.3rem 0}caption{text-align:left;color:var(--soft)}
td,th{padding:.15rem .9rem .15rem 0;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
th[scope=row]{min-width:9rem}
tbody tr{border-top:1px solid var(--line)}
.scroll{overflow-x:auto}
:focus-visible{outline:3px solid var(--focus);outline-offset:2px;border-radius:2px}
summary{cursor:pointer;width:max-content;max-width:100%;padding:.15rem 0}
.legend{margin:0;padding:0;list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1.3rem}
.legend li{display:flex;align-items:center;gap:.45rem}
.legend .bar{position:static;width:1.7rem;height:1rem;flex:none}
.legend .dot{position:static;transform:none;flex:none}
figure{margin:.6rem 0 0}
.plot{position:relative;padding:.2rem 0 1.5rem;margin:0 3.2rem 0 var(--gutter)}
.grid{position:absolute;inset:0;pointer-events:none}
.grid i{position:absolute;top:0;bottom:1.4rem;border-left:1px solid var(--line)}
.grid i.zero{border-left:2px solid var(--mark)}
.grid i.mark{border-left:1px dashed var(--mark);opacity:.6}
.grid span{position:absolute;bottom:0;transform:translateX(-50%);font-size:.78rem;
color:var(--soft);white-space:nowrap}
.events{list-style:none;margin:0 0 .4rem;padding:0;position:relative}
.events li{position:relative;padding:.05rem 0;font-size:.82rem;line-height:1.35}
.events i{position:absolute;top:.3rem;width:9px;height:9px;margin-left:-4.5px;border-radius:50%;
background:var(--mark)}
.events div{display:flex;padding:0 10px}
.events div.before{justify-content:flex-end;text-align:right}
.events span{background:var(--bg);padding:0 2px}
.lane{position:relative;margin:2px 0}
.lane>.name{position:absolute;right:100%;width:var(--gutter);padding-right:.7rem;text-align:right;
font-size:.82rem;line-height:1.35rem;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.name small{color:var(--soft);font-size:.95em}
.track{position:relative;height:1.35rem}
.dots .track{height:1.05rem}.dots>.name{line-height:1.05rem}
.bar{position:absolute;top:0;bottom:0;overflow:hidden;white-space:nowrap;text-overflow:ellipsis;
font-size:.8rem;line-height:1.35rem;border-right:1px solid var(--bg)}
.bar span{padding-left:.35rem}
.up{background:var(--up)}.writer{background:var(--writer)}.suspect{background:var(--suspect)}
.dead,.nobody{background:var(--dead)}.unknown{background:var(--unknown)}.gone{background:var(--gone)}
.suspect span,.dead span,.nobody span{position:relative;top:-2px}
.suspect,.dead,.nobody{border-top:2px solid var(--mark)}
.dead,.nobody{border-bottom:2px solid var(--mark)}
.dot{position:absolute;top:50%;width:5px;height:5px;transform:translate(-50%,-50%);
border-radius:50%;background:var(--ok)}
.dot.doubt{width:9px;height:9px;border-radius:0;background:var(--doubt);
transform:translate(-50%,-50%) rotate(45deg)}
.dot.error{width:11px;height:11px;border-radius:0;background:var(--bad);
clip-path:polygon(20% 0,50% 30%,80% 0,100% 20%,70% 50%,100% 80%,80% 100%,50% 70%,20% 100%,
0 80%,30% 50%,0 20%)}
.legend .dot.doubt{transform:rotate(45deg)}
.legend .dot.later{background:var(--okb)}
.took{position:relative;margin:.5rem 0 0}
.took svg{display:block;width:100%;overflow:visible}
.took path{fill:none;stroke-linecap:round;vector-effect:non-scaling-stroke}
.took .rule{stroke:var(--line);stroke-width:1}
.took .base{stroke:var(--mark);stroke-width:1}
.took .sync{stroke:var(--ok)}.took .async{stroke:var(--okb)}
.took .doubt{stroke:var(--doubt)}.took .error{stroke:var(--bad)}
.took .point{stroke-width:4}.took .wait{stroke-width:1.5;opacity:.75}.took .far{stroke-width:6}
.took .name{position:absolute;right:100%;width:var(--gutter);padding-right:.7rem;text-align:right;
font-size:.82rem;line-height:1.1}
.took .scale{position:absolute;left:100%;transform:translateY(-50%);font-size:.72rem;line-height:1;
color:var(--soft);padding-left:6px;white-space:nowrap}
footer{margin-top:2rem;color:var(--soft);border-top:1px solid var(--line);padding-top:.6rem}
@media (max-width:44rem){:root{--gutter:0rem}body{padding:.8rem}
.plot{margin:0 2.9rem 0 .3rem}
.lane>.name{position:relative;right:auto;display:table;width:auto;text-align:left;line-height:1.3;
background:var(--bg);padding:.1rem .3rem 0 0}
.took .name{right:auto;left:0;width:auto;text-align:left;padding:0 .3rem 0 0;background:var(--bg)}
.grid .minor{display:none}dl{grid-template-columns:1fr}dd{margin:0 0 .3rem}
td,th{padding-right:.6rem}}
@media print{:root{--bg:#fff;--ink:#000;--soft:#444;color-scheme:light;
--up:#bfe3cd;--writer:#a9cff2;--suspect:#f6d98b;--dead:#f2b1aa;--unknown:#e0e4e9;--gone:#eef0f3;
--line:#d5dbe1;--ok:#1b7f4d;--okb:#2563b8;--doubt:#8f5a00;--bad:#b3221a;--mark:#3e4c59}
body{font-size:11px;max-width:none;padding:0}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
.whole,table,.legend,dl{break-inside:avoid}h2,h3,caption{break-after:avoid}
.scroll{overflow:visible}details.table{display:none}}
@media (prefers-contrast:more){:root{--soft:var(--ink);--line:var(--mark)}}
@media (forced-colors:active){.bar,.dot,.events i{forced-color-adjust:none}}
"""
