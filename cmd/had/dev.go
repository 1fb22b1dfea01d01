package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"had/internal/lab"
)

func devCommand() *cobra.Command {
	return &cobra.Command{Use: "dev", RunE: func(cmd *cobra.Command, _ []string) error {
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		first, _, stop := untilSignal(context.Background())
		defer stop()
		l, err := lab.New(lab.Config{HadBinary: exe})
		if err != nil {
			return err
		}
		defer l.Close()
		for _, h := range l.Servers() {
			if err := h.StartDaemon(); err != nil {
				return err
			}
			fmt.Println(h.Socket(), h.Log())
		}
		<-first.Done()
		return nil
	}}
}
