// Command bench measures failover and writes the page about it; see
// internal/bench.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"had/internal/bench"
	"had/internal/lab"
)

func main() {
	if len(os.Args) == 5 && os.Args[1] == "power" { // what had runs to fence a host
		if err := lab.AskStrip(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures, or only writes the page again, as the arguments say.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	cfg := bench.Config{Progress: stdout}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	bin := flags.String("bin", "bin", "folder of had and hactl")
	docs := flags.String("docs", "", "folder for the page and the plot of a complete run; default: beside the results only")
	again := flags.Bool("again", false, "measure nothing; write the page of the results that are there")
	only := flags.String("only", "", "parts to run, with commas between: "+strings.Join(bench.Parts(), ", "))
	anew := flags.String("anew", "", "parts to measure once more, for the page of the run whose results are in the folder")
	subjects := flags.String("subjects", "", "what to measure, with commas between: "+strings.Join(bench.SubjectKeys(), ", "))
	keepalived := flags.String("keepalived", "/usr/sbin/keepalived", "the program to compare with")
	flags.StringVar(&cfg.Dir, "dir", filepath.Join("build", "bench"), "folder for the results")
	flags.BoolVar(&cfg.Resume, "resume", false, "go on with the run whose results are in the folder")
	flags.IntVar(&cfg.Trials, "n", 20, "trials a fault")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("understand %q: there are only flags; see -help", flags.Arg(0))
	}
	if *again {
		report, err := bench.ReadReport(filepath.Join(cfg.Dir, bench.ResultsFile))
		if err != nil {
			return err
		}
		return write(report, cfg.Dir, *docs, stdout)
	}
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root: run it with sudo")
	}
	var err error
	if cfg.Had, err = filepath.Abs(filepath.Join(*bin, "had")); err != nil {
		return fmt.Errorf("find had: %w", err)
	}
	cfg.Hactl = filepath.Join(filepath.Dir(cfg.Had), "hactl")
	if cfg.Self, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if path, err := exec.LookPath(*keepalived); err == nil {
		cfg.Keepalived = path
	}
	cfg.Only, cfg.Subjects, cfg.Anew = list(*only), list(*subjects), list(*anew)
	report, err := bench.Run(ctx, cfg)
	if ctx.Err() != nil {
		err = fmt.Errorf("interrupted; everything is cleaned up, and what was measured is in %s", cfg.Dir)
	}
	if err != nil {
		return err
	}
	return write(report, cfg.Dir, *docs, stdout)
}

// write makes the page and says where it is.
func write(r *bench.Report, dir, docs string, stdout io.Writer) error {
	places := []string{dir}
	if docs != "" && r.Complete {
		places = append(places, docs)
	}
	for _, place := range places {
		if err := bench.WriteDocs(r, place); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "written: %s\n", filepath.Join(place, bench.PageFile))
	}
	if docs != "" && !r.Complete {
		fmt.Fprintf(stdout, "%s is left as it is: it takes a run of everything\n", filepath.Join(docs, bench.PageFile))
	}
	return nil
}

// list splits what has commas between.
func list(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}
