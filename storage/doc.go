// Package storage mounts volumes and unmounts them so that it can prove it: a
// volume is free when no process of this kernel has it mounted and its device
// could be opened with O_EXCL. DESIGN.md says what the proof rests on, and what
// was rejected.
//
// Every function here may hang in the kernel for as long as a device or a
// server doesn't answer, and no signal ends that. So callers run them in a
// process of their own that they can do without; a context is looked at between
// the steps only. All of it needs root, and acts in the mount namespace of the
// calling process, whose threads must share one.
//
// Nothing here decides who may mount: two calls for one volume at a time are
// the caller's error.
package storage
