// Package daemon puts had together: the start order, the tasks of a running
// node and who owns them, the shutdown order, and what systemd is told.
package daemon
