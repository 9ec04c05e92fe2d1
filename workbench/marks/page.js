// A page without a kernel: its pictures are drawn from the data beside them.
import { wake } from "./picture.js";

wake(document.body);
