package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"had/internal/bundle"
)

const (
	commandTime  = 20 * time.Second
	mostLogLines = "20000"
	mostEntries  = 5000 // of a folder that is listed
	mostLinks    = 64   // whose filters are listed
)

// runCommand runs a program of this host's. What it printed comes back with an error,
// too.
func runCommand(ctx context.Context, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_COLORS=0")
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if text := oneLine(said.String()); text != "" && err != nil {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return out, err
}

// host is what this host has and no daemon is needed for.
func (g *gatherer) host(ctx context.Context) {
	log := []string{"--no-pager", "--utc", "-o", "short-precise", "-n", mostLogLines}
	for _, c := range []struct {
		file string
		argv []string
	}{
		{"host/had.log", append([]string{"journalctl", "-u", g.unit}, log...)},
		{"host/kernel.log", append([]string{"journalctl", "-k"}, log...)},
		{"host/service.txt", []string{"systemctl", "show", g.unit, "-p", "ActiveState,SubState,Result,ExecMainCode,ExecMainStatus,ExecMainStartTimestamp,ExecMainExitTimestamp,StateChangeTimestamp,NRestarts,MainPID,MemoryCurrent,CPUUsageNSec,UnitFileState,FragmentPath,DropInPaths"}},
		{"host/validate.txt", []string{"had", "validate", "--config", g.config}},
		{"host/addresses.txt", []string{"ip", "-d", "-s", "address"}},
		{"host/routes.txt", []string{"ip", "route", "show", "table", "all"}},
		{"host/routes6.txt", []string{"ip", "-6", "route", "show", "table", "all"}},
		{"host/rules.txt", []string{"ip", "rule"}},
		{"host/neighbours.txt", []string{"ip", "neighbour"}},
		{"host/qdiscs.txt", []string{"tc", "-s", "qdisc", "show"}},
		{"host/disks.txt", []string{"lsblk", "-o", "NAME,TYPE,SIZE,RO,FSTYPE,LABEL,UUID,MOUNTPOINT"}},
	} {
		if ctx.Err() != nil {
			return
		}
		out, err := g.command(ctx, c.argv[0], c.argv[1:]...)
		g.take(c.file, strings.Join(c.argv, " "), out, err)
	}
	g.filters(ctx)
	g.kernelFile("host/mounts.txt", "/proc/self/mountinfo")
	g.facts()
	for _, dir := range []string{g.configDir, g.value("data_dir", "/var/lib/had")} {
		g.files(dir)
	}
	g.metrics(ctx)
}

func (g *gatherer) value(name, standard string) string {
	if v := g.node.Values[name]; v != "" {
		return v
	}
	return standard
}

// take takes what a command has printed, in vain or not.
func (g *gatherer) take(file, from string, out []byte, err error) {
	switch {
	case len(bytes.TrimSpace(out)) > 0:
		g.add(file, from, out)
		if err != nil {
			g.note(file + ": " + g.text(err.Error(), false))
		}
	case err != nil:
		g.bundle.Miss(file, g.text(oneLine(err.Error()), false))
	default:
		g.bundle.Miss(file, "there is none: "+from+" prints nothing")
	}
}

func (g *gatherer) kernelFile(file, path string) {
	out, err := os.ReadFile(path)
	g.take(file, path, out, err)
}

// filters are those of each link: the gate is one.
func (g *gatherer) filters(ctx context.Context) {
	links, err := net.Interfaces()
	var all bytes.Buffer
	for i, l := range links {
		if i == mostLinks {
			g.note(fmt.Sprintf("host/filters.txt: of %d links the first %d", len(links), mostLinks))
			break
		}
		for _, way := range []string{"ingress", "egress"} {
			out, failed := g.command(ctx, "tc", "-s", "filter", "show", "dev", l.Name, way)
			if len(out) > 0 {
				fmt.Fprintf(&all, "== %s %s\n%s", l.Name, way, out)
			}
			err = errors.Join(err, failed)
		}
	}
	g.take("host/filters.txt", "tc -s filter show, for each link", all.Bytes(), err)
}

// facts are small files of the kernel's.
func (g *gatherer) facts() {
	var all bytes.Buffer
	var errs error
	for _, path := range []string{
		"/proc/version", "/proc/uptime", "/proc/loadavg", "/proc/meminfo", "/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory",
		"/sys/devices/system/clocksource/clocksource0/current_clocksource", "/etc/os-release",
	} {
		text, err := os.ReadFile(path)
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		fmt.Fprintf(&all, "== %s\n%s\n", path, text)
	}
	g.take("host/facts.txt", "/proc, /sys, /etc/os-release", all.Bytes(), errs)
}

// files lists a folder: names, owners and modes, no contents.
func (g *gatherer) files(dir string) {
	var all bytes.Buffer
	n := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if n++; n > mostEntries {
			return fs.SkipAll
		}
		if err != nil {
			fmt.Fprintf(&all, "%s: %v\n", path, err)
			return nil // it is told; the rest is still worth it
		}
		if info, err := d.Info(); err == nil {
			uid, gid := uint32(0), uint32(0)
			if s, ok := info.Sys().(*syscall.Stat_t); ok {
				uid, gid = s.Uid, s.Gid
			}
			fmt.Fprintf(&all, "%s %5d:%-5d %11d %s %s\n", info.Mode(), uid, gid, info.Size(), info.ModTime().UTC().Format(time.RFC3339), path)
		}
		return nil
	})
	name := "host/files" + strings.ReplaceAll(filepath.Clean(dir), "/", "-") + ".txt"
	if n > mostEntries {
		g.note(fmt.Sprintf("%s: the first %d names", name, mostEntries))
	}
	g.take(name, "the names in "+dir, all.Bytes(), err)
}

// metrics are those that monitoring would read.
func (g *gatherer) metrics(ctx context.Context) {
	const file = "host/metrics.txt"
	listen := g.node.Values["telemetry.listen"]
	_, on := g.node.Values["telemetry"]
	switch {
	case g.node.Text == "":
		g.bundle.Miss(file, "without host/node.hcl nobody knows whether there are any")
		return
	case !on:
		g.bundle.Miss(file, "telemetry is off: "+g.config+" has no telemetry block")
		return
	case g.node.Values["telemetry.tls"] == "true":
		g.bundle.Miss(file, "telemetry asks for a certificate (tls = true), and this command has none for it")
		return
	case listen == "":
		listen = "127.0.0.1:7480"
	}
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err == nil && ip.IsUnspecified() {
		listen = net.JoinHostPort("localhost", port)
	}
	text, err := get(ctx, "http://"+listen+"/metrics")
	if err != nil {
		g.bundle.Miss(file, oneLine(err.Error()))
		return
	}
	g.list(file, "http://"+listen+"/metrics", text)
}

func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: &http.Transport{}}).Do(req) // by way of no proxy
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, bundle.MostOfOne))
}
