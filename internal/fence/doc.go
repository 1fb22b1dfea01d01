// Package fence makes sure that a host which fell silent no longer writes: it
// has it switched off by programs that can, keeps the watchdog that resets this
// host when nobody feeds it, and holds SCSI-3 persistent reservations, which
// shut other hosts out of a disk. Why each of them is believed, and what was
// rejected, is in DESIGN.md.
//
// Agents and commands run on another node than the one they switch off. A
// Watchdog belongs to the guard of the host it resets. A Disk is opened by the
// node that takes it over.
package fence
