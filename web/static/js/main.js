// @ts-check
/** Entry of every page: each part looks for its own `data-` marks and does nothing without them. */
import { bell } from "./bell.js";
import { copyButtons } from "./copy.js";
import { gallerySearch } from "./gallery.js";
import { livePanel } from "./live.js";
import { liveLog } from "./logs.js";
import { pageTouches } from "./touches.js";

document.documentElement.classList.add("js");
copyButtons(document);
bell();
pageTouches();
gallerySearch();
livePanel();
liveLog();
