// The charts, by uPlot. Loaded once one of them is needed.
/*! Contains uPlot. Copyright (c) Leon Sorokin, MIT license */

import uPlot from 'uplot';

/** One moment of a burst. Null: unknown. */
export interface Sample {
  /** Seconds since the burst began. */
  at: number;
  acknowledged: number | null;
  counted: number | null;
  /** Milliseconds. */
  lag: number | null;
}

export interface Point {
  at: string;
  gained: number;
}

export interface Chart {
  draw(data: uPlot.AlignedData): void;
}

const whole = (values: (number | null)[]) => values.map((value) => (value === null ? '' : value.toLocaleString()));

/** A chart as large as its element, in the colours of the page. */
function chart(
  element: HTMLElement,
  series: (color: (name: string) => string) => uPlot.Series[],
  x: uPlot.Axis,
): Chart {
  let plot: uPlot | undefined;
  let data: uPlot.AlignedData | undefined;
  function make(): void {
    plot?.destroy();
    // light-dark() is resolved where it is used as a colour.
    const probe = element.appendChild(document.createElement('i'));
    const color = (name: string): string => {
      probe.style.color = `var(--${name})`;
      return getComputedStyle(probe).color;
    };
    const [stroke, line] = [color('soft'), color('line')];
    const axis: uPlot.Axis = {
      stroke,
      grid: { stroke: line, width: 1 },
      ticks: { show: false },
      font: '12px system-ui',
    };
    const options: uPlot.Options = {
      width: element.clientWidth,
      height: element.clientHeight,
      legend: { show: false },
      cursor: { show: false },
      padding: [8, 20, 0, 0],
      scales: { x: { time: false }, y: { range: (_, __, max) => [0, Math.max(1, max || 0) * 1.1] } },
      series: [{}, ...series(color)],
      axes: [
        { ...axis, size: 24, grid: { show: false }, ...x },
        { ...axis, size: 52, values: (_, values) => whole(values), space: 34 },
      ],
    };
    probe.remove();
    plot = new uPlot(options, data ?? (options.series.map(() => []) as unknown as uPlot.AlignedData), element);
  }
  make();
  new ResizeObserver(() => plot?.setSize({ width: element.clientWidth, height: element.clientHeight })).observe(
    element,
  );
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', make);
  return {
    draw(next) {
      data = next;
      plot?.setData(next);
    },
  };
}

const seconds: uPlot.Axis = { values: (_, values) => values.map((value) => `${value} s`) };
const points = { show: false };

export const rates = (element: HTMLElement): Chart =>
  chart(
    element,
    (color) => [
      { stroke: color('acknowledged'), width: 2.5, points },
      { stroke: color('counted'), width: 2.5, points },
    ],
    seconds,
  );

export const lags = (element: HTMLElement): Chart =>
  chart(element, (color) => [{ stroke: color('accent'), width: 2, points }], seconds);

export const history = (element: HTMLElement): Chart =>
  chart(
    element,
    (color) => [
      {
        fill: color('accent'),
        stroke: 'transparent',
        width: 0,
        points,
        paths: uPlot.paths.bars!({ size: [0.7, 40], radius: 0.2 }),
      },
    ],
    {
      values: (_, values) => values.map((value) => new Date(value * 1000).toLocaleTimeString([], { hour: 'numeric' })),
      incrs: [6, 12].map((hours) => hours * 3600),
    },
  );
